"""Files of arrays: the library's bytes, without its copies."""

from pathlib import Path

import numpy as np
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from common.machine import tensor_file

SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=5)
ARRAYS: st.SearchStrategy[dict[str, np.ndarray]] = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "__metadata__"),
    st.one_of([arrays_of.arrays(np.dtype(kind), SHAPES) for kind in ("<f4", "<f8", "<i8")]),
    max_size=4,
)


@given(arrays=ARRAYS, metadata=st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=1))
def test_a_file_has_the_bytes_of_the_library(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    expected = safetensors.numpy.save(arrays, metadata=metadata or None)
    assert b"".join(tensor_file.parts(arrays, metadata)) == expected


def test_what_lies_otherwise_in_memory_is_written_in_order(tmp_path: Path) -> None:
    values = np.arange(6, dtype=">f4")[::2]
    tensor_file.write(tmp_path / "file", {"a": values}, {"of": "ü"})
    metadata, found = tensor_file.read(tmp_path / "file")
    assert metadata == {"of": "ü"}
    np.testing.assert_array_equal(found["a"], [0, 2, 4])
