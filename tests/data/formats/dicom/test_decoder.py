"""The decoder's process: its answers are pydicom's own, and its end is not the program's."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_series import head, write_classic
from pydicom.data import get_testdata_file

from monai_d3gm.data.formats.dicom import decoder as module
from monai_d3gm.data.formats.dicom.decoder import Decoder, DecoderError

FILE = Path(str(get_testdata_file("MR_small_RLE.dcm")))


def test_the_values_are_those_of_this_process(tmp_path: Path) -> None:
    paths = write_classic(tmp_path / "name with\nodd \x1b", head((24, 20, 2)), syntax="1.2.840.10008.1.2.5")
    with Decoder() as decoder:
        for path in [FILE, *paths]:
            np.testing.assert_array_equal(decoder.decode(path, 2**20), pydicom.dcmread(path).pixel_array)


def test_an_error_a_crash_and_a_hang_fail_one_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text").write_text("no DICOM")
    with Decoder() as decoder:
        with pytest.raises(DecoderError, match="."):
            decoder.decode(tmp_path / "text", 2**20)
        decoder.decode(FILE, 2**20)
        assert decoder._process is not None
        os.kill(decoder._process.pid, signal.SIGKILL)
        with pytest.raises(DecoderError, match="crashed|ended before"):
            decoder.decode(FILE, 2**20)
        decoder.decode(FILE, 2**20)
        with pytest.raises(DecoderError, match="bytes of pixels where 10 are described"):
            decoder.decode(FILE, 10)
        decoder.decode(FILE, 2**20)
        monkeypatch.setattr(module, "_PATIENCE", 0.0)
        with pytest.raises(DecoderError, match="took longer than 0 s"):
            decoder.decode(FILE, 2**20)
