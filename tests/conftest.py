from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


def _take(*_: object) -> None:
    """Do nothing, as with an ignored signal; but what is started by exec does not inherit it."""


# Tests send these to what they start, which must not be deaf to them: a shell starts what runs behind it with some of
# them ignored, and that is inherited.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _take)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests that share a fixture of their module on one worker, which then makes it once (`--dist loadgroup`)."""
    for item in items:
        if isinstance(item, pytest.Function) and any(
            found[-1].scope == "module" for found in item._fixtureinfo.name2fixturedefs.values() if found
        ):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.split("::")[0]))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what plans remember of model folders out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
