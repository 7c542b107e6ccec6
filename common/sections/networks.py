"""The ``[images]`` and ``[network]`` sections: what networks see, and what they are."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from common.sections.section import Backbone, Fraction, GrowingSection, Options, check_options


class ImageSettings(GrowingSection):
    """One image of an exam.

    ``grey`` is stored as one channel, ``doppler`` as luminance and mask of the flow signal, ``colour`` as RGB.
    """

    later: ClassVar[tuple[str, ...]] = ("frames",)

    kind: Literal["grey", "doppler", "colour"]
    mask_saturation: Fraction = 0.40
    """Doppler only: HSV saturation above which a pixel is flow (RATING's released code)."""
    frames: Annotated[int, Field(ge=2, le=64)] | None = None
    """Of a moving picture, how many frames networks read, evenly spaced over the clip. ``None``: a still."""


class NetworkSettings(GrowingSection):
    """The networks' backbone and the size of the image they see."""

    later: ClassVar[tuple[str, ...]] = ("options", "weights_licence", "head")

    backbone: Backbone = "small"
    """``small``, ``resnet18``, ``mobilenet_v2``, ``vgg16``, ``inception_v3``, or your own ``package.module:Name``."""
    weights: str = "none"
    """Where backbones start that start from no other network: ``none`` (random), ``imagenet`` (what
    `synofed weights import` wrote into the folder ``weights``, or else torchvision's, which it downloads), or a file
    of torchvision's, or a folder of such files."""
    weights_sha256: str = ""
    """Of the start weights, filled in by the centre: the plan names what they are, not where they lie."""
    weights_licence: Annotated[str, Field(max_length=200)] = ""
    """Under which weights of your own may be used, in your words; sites read it in the plan."""
    image_px: Annotated[int, Field(ge=16, le=1024)] = 64
    width: Annotated[int, Field(ge=4, le=256)] = 16
    """Channels of the small backbone's first stage; ignored by the others."""
    hidden: Annotated[int, Field(ge=1, le=65_536)] = 256
    """Width of the hidden layer of heads that have one (RATING's fusion head: 256)."""
    head: Literal["random", "zero"] = "random"
    """How a network's last layer starts. Below a random one, what a backbone has learnt before is changed first, to
    make up for what the head says of it at random; ``zero``: the head learns first (ours)."""
    options: Options = Field(default_factory=dict)
    """Of a backbone of your own."""

    @model_validator(mode="after")
    def _options_are_of_ones_own(self) -> NetworkSettings:
        check_options(self.options, self.backbone, "network.options", "network.backbone")
        if self.weights_licence and self.weights == "none" and not self.weights_sha256:
            raise ValueError("network.weights_licence is of start weights, but there are none: remove it")
        return self

    def __hash__(self) -> int:
        """Layouts are found once per settings of networks; a dictionary has none of its own."""
        fields = (getattr(self, name) for name in type(self).model_fields if name != "options")
        return hash((*fields, *sorted(self.options.items())))
