"""UCF101's videos to one picture each: the middle frame, as the papers on CLIP use them."""

import io
import os
import re
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from adavipro.files import write_atomically
from adavipro.settings import SettingError

QUALITY = 95  # of the JPEG
LEAST_SHARE = 0.9  # of the frames that a video's header counts: with fewer it is cut off


def class_folder(action: str) -> str:
    """Folder of a class's frames: that of "ApplyEyeMakeup" is "Apply_Eye_Makeup".

    UCF101's lists have the class HandstandPushups, but its videos are named HandStandPushups.
    """
    return "_".join(re.findall("[A-Z][^A-Z]*", action.replace("HandStand", "Handstand")))


def extract(videos: Path, target: Path, progress_bar: bool = True) -> int:
    """Write the middle frame of each video to target/<Cap_Words>/<video>.jpg; frames that are there are kept.

    Args:
        videos: folder with v_<Class>_g01_c01.avi and so on, in it or in folders below.
        target: folder of the frames, ucf101/UCF-101-midframes among the data sets.

    Returns:
        The number of frames written.

    Raises:
        SettingError: if PyAV or videos are missing, a name occurs twice, or, when the others are done, videos are
            damaged: each is named, and nothing stands in for its frame.
    """
    try:
        import av
    except ImportError:
        raise SettingError("reading videos needs PyAV: pip install 'adavipro[paper]'") from None
    frames: dict[Path, Path] = {}
    for video in sorted(videos.rglob("*.avi")):
        if match := re.fullmatch(r"v_(\w+)_g\d+_c\d+", video.stem):
            frame = target / class_folder(match[1]) / f"{video.stem}.jpg"
            if frame in frames:
                raise SettingError(f"{frames[frame]} and {video} have one name: remove one of them")
            frames[frame] = video
    if not frames:
        raise SettingError(f"{videos} holds no videos with names like v_ApplyEyeMakeup_g01_c01.avi")
    todo = [frame for frame in frames if not frame.exists()]
    for folder in {frame.parent for frame in todo}:
        folder.mkdir(parents=True, exist_ok=True)

    def work(frame: Path) -> str | None:
        try:
            content = _middle_frame(av, frames[frame])
        except (av.FFmpegError, ValueError) as error:
            return f"{frames[frame].relative_to(videos)} ({error})"
        write_atomically(frame, content)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        told = list(tqdm(pool.map(work, todo), total=len(todo), disable=not progress_bar, unit="video"))
    if bad := [line for line in told if line]:
        raise SettingError(f"{len(bad)} of {len(frames)} videos cannot be used: {', '.join(bad)}")
    return len(todo)


def _middle_frame(av: Any, video: Path) -> bytes:
    """Content of a JPEG: of the n frames that can be decoded, the frame n // 2, counted from 0."""
    later: deque[Any] = deque()  # the frames from n // 2 on: never more than half of them
    n, image = 0, io.BytesIO()
    with av.open(str(video)) as container:
        if not container.streams.video:
            raise ValueError("it has no pictures")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # videos are read side by side
        for n, frame in enumerate(container.decode(stream), 1):
            later.append(frame)
            if n % 2 == 0:
                later.popleft()
        if n == 0 or n < LEAST_SHARE * stream.frames:
            raise ValueError(f"{n} of its {stream.frames} frames can be read")
    later[0].to_image().save(image, "JPEG", quality=QUALITY)
    return image.getvalue()
