import pytest

from adavipro import architecture, presets
from adavipro.experiment import build_method


def test_every_tensor_on_the_way_has_a_panel_with_its_shape(clip, images):
    method = build_method(presets.preset("embedded", "adavipro", prompt_px=28), clip)
    image = (images[0].clamp(-2, 2) * 60 + 128).byte()
    drawn = architecture.architecture_figure(clip, method, image)
    shapes = [axes.get_xlabel() for axes in drawn.axes]
    assert shapes[:6] == [
        "3 x 56 x 56",
        "3 x 56 x 56",
        "16 x 56 x 56",
        "2 x 7 x 7",
        "1 x 7 x 7",
        "1 x 56 x 56",
    ]
    assert [axes.get_title() for axes in drawn.axes if axes.title.get_fontweight() == "bold"] == [
        "$F_c(m_e)$", "$F_p(F_c(m_e))$, on - off", "template P",
    ]  # fmt: skip


def test_vp_has_no_such_architecture(clip, images):
    method = build_method(presets.preset("embedded", "vp", prompt_px=28), clip)
    with pytest.raises(
        ValueError, match="the method has no mask generator: the architecture is AdaViPro's, not VP's"
    ):
        architecture.architecture_figure(clip, method, images[0])
