from tensorpool_async.emulator import Made, Record


def made(number: int, name: str) -> Made:
    return Made(f"c-{number}", name, "1xH100", 0.0)


def test_a_name_made_twice_is_seen() -> None:
    record = Record()
    record.cluster_made(made(1, "w0"))
    record.volume_made(made(2, "w0"))
    assert record.made_twice == []
    record.cluster_made(made(3, "w0"))
    assert record.made_twice == ["w0"]


def test_a_name_that_is_free_again_is_not_made_twice() -> None:
    record = Record()
    record.cluster_made(made(1, "w0"))
    record.cluster_gone("c-1")
    record.cluster_made(made(2, "w0"))
    record.cluster_renamed("c-2", "w1")
    record.cluster_made(made(3, "w0"))
    assert record.made_twice == []
    record.cluster_renamed("c-3", "w1")
    assert record.made_twice == ["w1"]
    assert record.living == ["c-2", "c-3"]
