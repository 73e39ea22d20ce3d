"""UCF101's videos to middle frames, from real small videos."""

import io
import sys

import av
import numpy as np
import pytest
from PIL import Image

from adavipro.midframes import class_folder, extract
from adavipro.settings import SettingError


def write_video(file, frames, size=(64, 48)):
    """An .avi of MPEG-4 whose frame i is a flat grey of 20 + 10 i."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(frames):
            picture = np.full((size[1], size[0], 3), 20 + 10 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def opened(file):
    return Image.open(io.BytesIO(file.read_bytes()))


def grey(file):
    return np.asarray(opened(file)).mean()


@pytest.mark.parametrize(
    ("action", "folder"),
    [
        ("ApplyEyeMakeup", "Apply_Eye_Makeup"),
        ("YoYo", "Yo_Yo"),
        ("Archery", "Archery"),
        ("HandStandPushups", "Handstand_Pushups"),
        ("HandstandPushups", "Handstand_Pushups"),
    ],
)
def test_folder_of_a_class_is_its_words(action, folder):
    assert class_folder(action) == folder


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 9, 20])
def test_middle_frame_is_the_frame_n_half(frames, tmp_path):
    write_video(tmp_path / "v_YoYo_g01_c01.avi", frames)
    assert extract(tmp_path, tmp_path / "out", progress_bar=False) == 1
    assert abs(grey(tmp_path / "out/Yo_Yo/v_YoYo_g01_c01.jpg") - (20 + 10 * (frames // 2))) < 3


def test_videos_are_found_in_one_folder_and_in_class_folders(tmp_path):
    write_video(tmp_path / "in/v_ApplyEyeMakeup_g01_c01.avi", 4)
    write_video(tmp_path / "in/HandstandPushups/v_HandStandPushups_g25_c07.avi", 4, size=(48, 64))
    (tmp_path / "in/notes.avi").write_text("not one of them")
    assert extract(tmp_path / "in", tmp_path / "out", progress_bar=False) == 2
    files = sorted(tmp_path.glob("out/*/*"))
    assert [str(file.relative_to(tmp_path / "out")) for file in files] == [
        "Apply_Eye_Makeup/v_ApplyEyeMakeup_g01_c01.jpg",
        "Handstand_Pushups/v_HandStandPushups_g25_c07.jpg",
    ]
    images = [opened(file) for file in files]
    assert [(image.size, image.format) for image in images] == [((64, 48), "JPEG"), ((48, 64), "JPEG")]
    assert max(images[0].quantization[0]) <= 12  # quality 95; at Pillow's 75 it is 61


def test_frames_that_are_there_are_kept(tmp_path):
    for i in (1, 2):
        write_video(tmp_path / f"v_YoYo_g01_c{i:02d}.avi", 4)
    assert extract(tmp_path, tmp_path / "out", progress_bar=False) == 2
    kept, lost = sorted(tmp_path.glob("out/Yo_Yo/*.jpg"))
    kept.write_bytes(b"mine")
    lost.unlink()
    assert extract(tmp_path, tmp_path / "out", progress_bar=False) == 1
    assert kept.read_bytes() == b"mine"
    assert grey(lost) == pytest.approx(40, abs=3)


def test_d1_damaged_videos_are_all_named_and_the_others_are_done(tmp_path):
    for i in range(1, 6):
        write_video(tmp_path / f"in/v_YoYo_g01_c{i:02d}.avi", 20)
    videos = sorted(tmp_path.glob("in/*.avi"))
    videos[1].write_bytes(b"")
    videos[2].write_bytes(b"<html>404</html>")
    videos[3].write_bytes(videos[3].read_bytes()[: videos[3].stat().st_size // 2])
    with pytest.raises(SettingError, match=r"^3 of 5 videos cannot be used: ") as caught:
        extract(tmp_path / "in", tmp_path / "out", progress_bar=False)
    assert all(f"{video.name} (" in str(caught.value) for video in videos[1:4])
    assert "\n" not in str(caught.value)
    done = [file.name for file in sorted(tmp_path.glob("out/Yo_Yo/*"))]
    assert done == ["v_YoYo_g01_c01.jpg", "v_YoYo_g01_c05.jpg"]
    write_video(videos[1], 4)
    with pytest.raises(SettingError, match=r"^2 of 5 videos"):
        extract(tmp_path / "in", tmp_path / "out", progress_bar=False)
    assert len(list(tmp_path.glob("out/Yo_Yo/*"))) == 3


def test_no_videos_two_of_a_name_or_no_pyav_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(SettingError, match="holds no videos with names like v_ApplyEyeMakeup_g01_c01"):
        extract(tmp_path, tmp_path / "out")
    for folder in ("a", "b"):
        write_video(tmp_path / folder / "v_YoYo_g01_c01.avi", 2)
    with pytest.raises(SettingError, match=r"a/v_YoYo_g01_c01\.avi and .*b/v_YoYo.* have one name"):
        extract(tmp_path, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SettingError, match=r"needs PyAV: pip install 'adavipro\[paper\]'"):
        extract(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
