"""What every storage must do; one suite for all of them."""

from __future__ import annotations

import hashlib

import anyio
import pytest

from rsbatch.errors import StoreError
from rsbatch.storage.interface import NOT_A_FILE, Occupied, Storage, free_name, part_name, sidecar_path

pytestmark = pytest.mark.anyio


async def put(storage: Storage, path: str, data: bytes) -> None:
    """Save as the runner does: by a part."""
    async with storage.open_part("put") as part:
        await part.write(data)
        await part.sync(len)
    await storage.publish("put", path)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_a_download_goes_through_a_part_to_its_place(storage: Storage) -> None:
    async with storage.open_part("k-1") as part:
        for _ in range(3):
            await part.write(b"abc" * 100_000)
        assert await part.sync(sha256) == sha256(b"abc" * 300_000)
        assert await storage.part_sha256("k-1") == sha256(b"abc" * 300_000)
    data = b"abc" * 300_000
    assert await storage.part_sha256("k-1") == sha256(data)
    assert await storage.parts() == ["k-1"]
    assert await storage.size("a/b/c.png") is None

    assert not await storage.publish("k-1", "a/b/c.png")

    assert await storage.size("a/b/c.png") == len(data)
    assert await storage.sha256("a/b/c.png") == sha256(data)
    assert await storage.read("a/b/c.png", len(data)) == data
    assert await storage.parts() == []
    assert await storage.part_sha256("k-1") is None
    assert await storage.files() == ["a/b/c.png"]


async def test_what_a_check_raises_is_not_the_folders_failure(storage: Storage) -> None:
    def check(data: bytes) -> None:
        raise OSError("truncated")

    async with storage.open_part("k") as part:
        await part.write(b"abc")
        with pytest.raises(OSError, match=r"^truncated$"):
            await part.sync(check)
    assert await storage.part_sha256("k") == sha256(b"abc")


@pytest.mark.parametrize("size", [3, 5_000_000])
async def test_nothing_can_be_added_after_the_sync(storage: Storage, size: int) -> None:
    async with storage.open_part("k") as part:
        await part.write(b"x" * size)
        await part.sync(len)
        with pytest.raises(StoreError, match="nothing can be added"):
            await part.write(b"tail")
        with pytest.raises(StoreError, match="nothing can be added"):
            await part.sync(len)
    assert await storage.part_sha256("k") == sha256(b"x" * size)


async def test_an_empty_part_is_a_part(storage: Storage) -> None:
    async with storage.open_part("k"):
        pass
    assert await storage.part_sha256("k") == sha256(b"")
    await storage.publish("k", "empty")
    assert await storage.size("empty") == 0


async def test_nothing_is_there_at_first(storage: Storage) -> None:
    assert await storage.parts() == []
    assert await storage.part_sha256("k") is None
    assert await storage.size("a/b.png") is None
    assert await storage.sha256("a/b.png") is None
    assert await storage.read("a/b.png", 10) is None
    assert not await storage.exists("a/b.png")
    assert await storage.sizes(["a", "b/c"]) == [None, None]
    assert await storage.files() == []
    await storage.discard_part("k")


async def test_a_stale_part_is_replaced(storage: Storage) -> None:
    for data in (b"a long one of an earlier run", b"new"):
        async with storage.open_part("k") as part:
            await part.write(data)
    assert await storage.part_sha256("k") == sha256(b"new")


@pytest.mark.parametrize("size", [3, 5_000_000])
async def test_a_stale_part_stands_until_the_new_one_is_made(storage: Storage, size: int) -> None:
    """What an earlier run left is known by its hash, so that it may stand there; but never a mixture."""
    stale, new = b"s" * size, b"n" * size
    async with storage.open_part("k") as part:
        await part.write(stale)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
        async with storage.open_part("k") as part:
            await part.write(new)
            raise ZeroDivisionError
    assert await storage.part_sha256("k") in {sha256(stale), sha256(new)}


async def test_a_part_survives_an_error_until_it_is_discarded(storage: Storage) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
        async with storage.open_part("k") as part:
            await part.write(b"half")
            await part.sync(len)
            raise ZeroDivisionError
    assert await storage.parts() == ["k"]
    await storage.discard_part("k")
    assert await storage.parts() == []
    assert await storage.part_sha256("k") is None


async def test_a_cancelled_download_leaves_nothing_open(storage: Storage) -> None:
    with anyio.CancelScope() as scope:
        async with storage.open_part("k") as part:
            await part.write(b"x" * 1_000_000)
            scope.cancel()
            await anyio.sleep(0)
    assert scope.cancelled_caught
    async with storage.open_part("k") as part:
        await part.write(b"again")
    assert await storage.part_sha256("k") == sha256(b"again")


async def test_publishing_never_overwrites(storage: Storage) -> None:
    await put(storage, "a.png", b"precious")
    async with storage.open_part("k") as part:
        await part.write(b"other")
    with pytest.raises(Occupied, match=r"a\.png"):
        await storage.publish("k", "a.png")
    assert await storage.read("a.png", 100) == b"precious"
    assert await storage.part_sha256("k") == sha256(b"other")


async def test_a_sidecar_comes_with_its_image_and_replaces_nothing(storage: Storage) -> None:
    async with storage.open_part("k") as part:
        await part.write(b"x")
    assert await storage.publish("k", "a/b.png", b"{}")
    assert await storage.read("a/b.png.json", 100) == b"{}"
    await storage.write_atomic("c.png.json", b"a person's")
    for path in ("a/b.png", "c.png"):
        async with storage.open_part("k") as part:
            await part.write(b"other")
        if path == "c.png":
            assert not await storage.publish("k", path, b"ours")
        else:
            with pytest.raises(Occupied):
                await storage.publish("k", path, b"ours")
    assert await storage.read("a/b.png", 100) == b"x"
    assert await storage.read("a/b.png.json", 100) == b"{}"
    assert await storage.read("c.png", 100) == b"other"
    assert await storage.read("c.png.json", 100) == b"a person's"


async def test_a_folder_is_not_taken_for_a_free_place(storage: Storage) -> None:
    await put(storage, "a/b.png", b"x")
    async with storage.open_part("k") as part:
        await part.write(b"other")
    with pytest.raises(Occupied):
        await storage.publish("k", "a")
    with pytest.raises(StoreError):
        await storage.publish("k", "a/b.png/c.png")
    assert await storage.part_sha256("k") == sha256(b"other")
    with pytest.raises(StoreError):
        await storage.size("a")
    with pytest.raises(StoreError):
        await storage.sha256("a")
    with pytest.raises(StoreError):
        await storage.write_atomic("a", b"{}")
    assert await storage.exists("a")
    assert await storage.size("a/b.png/c.png") is None
    assert await storage.sizes(["a", "a/b.png", "a/b.png/c.png"]) == [NOT_A_FILE, 1, None]


async def test_a_part_that_is_not_there_cannot_be_published(storage: Storage) -> None:
    with pytest.raises(StoreError):
        await storage.publish("k", "a.png")
    assert not await storage.exists("a.png")


async def test_settling_what_stands_there(storage: Storage) -> None:
    await put(storage, "a/b.png", b"x")
    await storage.settle("a/b.png")
    with pytest.raises(StoreError):
        await storage.settle("a/c.png")


async def test_moving_aside(storage: Storage) -> None:
    await put(storage, "a/b.png", b"old")
    await put(storage, "c.png", b"other")
    with pytest.raises(Occupied):
        await storage.move("a/b.png", "c.png")
    await storage.move("a/b.png", "a/b~12345678.png")
    assert not await storage.exists("a/b.png")
    assert await storage.read("a/b~12345678.png", 100) == b"old"
    assert await storage.read("c.png", 100) == b"other"
    await storage.move("a/b~12345678.png", "new/folder/b.png")
    assert await storage.files() == ["c.png", "new/folder/b.png"]
    with pytest.raises(StoreError):
        await storage.move("a/b.png", "d.png")


async def test_a_folder_in_the_way_can_be_moved_aside_whole(storage: Storage) -> None:
    await put(storage, "a.png/inner.txt", b"a person's")
    await storage.move("a.png", "a~1.png")
    assert await storage.files() == ["a~1.png/inner.txt"]
    await put(storage, "a.png", b"x")
    assert await storage.size("a.png") == 1


async def test_sidecars_are_written_whole_and_replaced(storage: Storage) -> None:
    await storage.write_atomic("a/b.png.json", b'{"v": 1}')
    await storage.write_atomic("a/b.png.json", b'{"v": 2}')
    assert await storage.read("a/b.png.json", 100) == b'{"v": 2}'
    assert await storage.parts() == []
    with pytest.raises(StoreError, match="larger"):
        await storage.read("a/b.png.json", 3)


async def test_finding_sidecars(storage: Storage) -> None:
    await put(storage, "a/b.png", b"x")
    await put(storage, "a/[1].png", b"x")
    await storage.write_atomic("a/b.png.json", b"{}")
    await storage.write_atomic("c.png.json", b"{}")
    async with storage.open_part("x.json"):
        assert await storage.files("*.json") == ["a/b.png.json", "c.png.json"]
    assert await storage.files("*.png") == ["a/[1].png", "a/b.png"]


async def test_free_names(storage: Storage) -> None:
    assert await free_name(storage, "a/b.png", "~12345678") == "a/b~12345678.png"
    await put(storage, "a/b~12345678.png", b"x")
    await storage.write_atomic(sidecar_path("a/b~12345678~2.png"), b"{}")
    assert await free_name(storage, "a/b.png", "~12345678") == "a/b~12345678~3.png"
    assert await free_name(storage, "v1.2/name", "~1") == "v1.2/name~1"
    assert await free_name(storage, ".png", "~1") == ".png~1"


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/etc/x", "a/", "a//b", "..", "../x", "a/../../x", "a/./b", ".", "a\0b"),
        *(".parts", ".parts/x", ".PARTS/x", "x" * 256, "猫" * 86, "a\ud800"),
    ],
)
async def test_paths_that_lead_elsewhere_are_refused(storage: Storage, path: str) -> None:
    async with storage.open_part("k") as part:
        await part.write(b"x")
    with pytest.raises(StoreError):
        await storage.publish("k", path)
    with pytest.raises(StoreError):
        await storage.write_atomic(path, b"x")
    with pytest.raises(StoreError):
        await storage.move(path, "b")
    with pytest.raises(StoreError):
        await storage.exists(path)
    with pytest.raises(StoreError):
        await storage.size(path)
    assert await storage.sizes([path, "x"]) == [NOT_A_FILE, None]
    assert await storage.files() == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "~x", "a\0", "x" * 256])
async def test_part_names_are_one_plain_component(storage: Storage, name: str) -> None:
    with pytest.raises(StoreError):
        part_name(name)
    with pytest.raises(StoreError):
        storage.open_part(name)
    with pytest.raises(StoreError):
        await storage.part_sha256(name)
    with pytest.raises(StoreError):
        await storage.discard_part(name)


async def test_names_of_any_script_and_the_longest(storage: Storage) -> None:
    for path in ("猫/橘.png", "x" * 251 + ".png", "ü" * 127, "a b/'\"$(x)\n.png", "back\\slash"):
        await put(storage, path, path.encode())
        assert await storage.read(path, 1000) == path.encode()


async def test_many_at_once(storage: Storage) -> None:
    async def one(number: int) -> None:
        async with storage.open_part(f"k-{number}") as part:
            await part.write(b"x" * number)
            await part.sync(len)
        await storage.publish(f"k-{number}", f"deep/er/{number % 3}/{number}.png")

    async with anyio.create_task_group() as group:
        for number in range(30):
            group.start_soon(one, number)
    paths = [f"deep/er/{number % 3}/{number}.png" for number in range(30)]
    assert await storage.sizes(paths) == list(range(30))
    assert await storage.parts() == []
