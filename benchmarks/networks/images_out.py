"""Networks that return images: U-Net, auto-encoders, super-resolution."""

# mypy: disable-error-code="no-any-return"

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from benchmarks.networks import Shapes


class DoubleConv(nn.Sequential):
    """Twice convolution, batch norm, ReLU."""

    def __init__(self, into: int, inner: int, out: int) -> None:
        super().__init__(
            nn.Conv2d(into, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """Down, up, and bridges across (Ronneberger et al., MICCAI 2015)."""

    def __init__(
        self,
        into: int = 1,
        channels: tuple[int, int, int] = (16, 32, 64),
        inner: Sequence[int] = (16, 32, 64, 32, 16),
        up: tuple[int, int] = (32, 16),
        decoded: tuple[int, int] = (32, 16),
        out: int = 2,
    ) -> None:
        super().__init__()
        self.down1 = DoubleConv(into, inner[0], channels[0])
        self.down2 = DoubleConv(channels[0], inner[1], channels[1])
        self.bottom = DoubleConv(channels[1], inner[2], channels[2])
        self.up2 = nn.ConvTranspose2d(channels[2], up[0], 2, stride=2)
        self.conv2 = DoubleConv(up[0] + channels[1], inner[3], decoded[0])
        self.up1 = nn.ConvTranspose2d(decoded[0], up[1], 2, stride=2)
        self.conv1 = DoubleConv(up[1] + channels[0], inner[4], decoded[1])
        self.out = nn.Conv2d(decoded[1], out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return maps (batch, out, H, W) of images (batch, C, H, W)."""
        skip1 = self.down1(x)
        skip2 = self.down2(functional.max_pool2d(skip1, 2))
        x = self.bottom(functional.max_pool2d(skip2, 2))
        x = self.conv2(torch.cat([self.up2(x), skip2], dim=1))
        x = self.conv1(torch.cat([self.up1(x), skip1], dim=1))
        return self.out(x)


def native_unet(shapes: Shapes) -> UNet:
    """Build the network with the lengths that are kept."""
    stages = ("down1", "down2", "bottom", "conv2", "conv1")
    inner = [shapes(f"{stage}.0.weight")[0] for stage in stages]
    one, two, bottom, decoded2, decoded1 = (shapes(f"{stage}.3.weight")[0] for stage in stages)
    return UNet(
        shapes("down1.0.weight")[1],
        (one, two, bottom),
        inner,
        (shapes("up2.weight")[1], shapes("up1.weight")[1]),
        (decoded2, decoded1),
        shapes("out.weight")[0],
    )


class ConvAutoencoder(nn.Module):
    """Strided convolutions down to a vector, transposed ones back up."""

    def __init__(
        self,
        image: tuple[int, int, int] = (1, 16, 16),
        channels: tuple[int, int] = (16, 32),
        code: int = 24,
        decoded: tuple[int, int] = (32, 16),
    ) -> None:
        super().__init__()
        self.size = (image[1] // 4, image[2] // 4)
        pixels = self.size[0] * self.size[1]
        self.encoder = nn.Sequential(
            nn.Conv2d(image[0], channels[0], 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(channels[0], channels[1], 3, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(channels[1] * pixels, code),
        )
        self.decoder = nn.Sequential(
            nn.Linear(code, decoded[0] * pixels),
            nn.ReLU(),
            nn.Unflatten(1, (decoded[0], *self.size)),
            nn.ConvTranspose2d(decoded[0], decoded[1], 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(decoded[1], image[0], 4, 2, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the reconstruction of images (batch, C, H, W)."""
        return self.decoder(self.encoder(x))


def native_autoencoder(shapes: Shapes, size: tuple[int, int] = (16, 16)) -> ConvAutoencoder:
    """Build the network with the lengths that are kept."""
    return ConvAutoencoder(
        (shapes("encoder.0.weight")[1], *size),
        (shapes("encoder.0.weight")[0], shapes("encoder.2.weight")[0]),
        shapes("encoder.5.weight")[0],
        (shapes("decoder.3.weight")[0], shapes("decoder.3.weight")[1]),
    )


class TiedAutoencoder(nn.Module):
    """Encoder and decoder share their matrices: one of them is used transposed."""

    def __init__(self, inputs: int = 20, hidden: int = 32, code: int = 16) -> None:
        super().__init__()
        self.outer = nn.Parameter(torch.randn(hidden, inputs) * 0.1)
        self.inner = nn.Parameter(torch.randn(code, hidden) * 0.1)
        self.bias = nn.ParameterList(
            [torch.zeros(hidden), torch.zeros(code), torch.zeros(hidden), torch.zeros(inputs)]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the reconstruction of vectors (batch, F)."""
        x = torch.tanh(functional.linear(x, self.outer, self.bias[0]))
        x = torch.tanh(functional.linear(x, self.inner, self.bias[1]))
        x = torch.tanh(torch.matmul(x, self.inner) + self.bias[2])
        return functional.linear(x, self.outer.t(), self.bias[3])


def native_tied_autoencoder(shapes: Shapes) -> TiedAutoencoder:
    """Build the network with the lengths that are kept."""
    hidden, inputs = shapes("outer")
    return TiedAutoencoder(inputs, hidden, shapes("inner")[0])


class SuperResolution(nn.Module):
    """Channels become pixels (Shi et al., CVPR 2016); nearest neighbours carry the rest."""

    def __init__(
        self, image_channels: int = 3, channels: tuple[int, int] = (32, 16), factor: int = 2
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(image_channels, channels[0], 5, padding="same")
        self.conv2 = nn.Conv2d(
            channels[0], channels[1] * factor**2, 3, padding=1, padding_mode="reflect"
        )
        self.shuffle = nn.PixelShuffle(factor)
        self.conv3 = nn.Conv2d(channels[1], image_channels, 3, padding=1)
        self.upsample = nn.Upsample(scale_factor=factor, mode="nearest")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return images (batch, C, factor H, factor W) of images (batch, C, H, W)."""
        detail = self.shuffle(self.conv2(functional.gelu(self.conv1(x))))
        return self.upsample(x) + self.conv3(functional.elu(detail))


def native_super_resolution(shapes: Shapes, factor: int = 2) -> SuperResolution:
    """Build the network with the lengths that are kept."""
    channels = (shapes("conv1.weight")[0], shapes("conv3.weight")[1])
    return SuperResolution(shapes("conv1.weight")[1], channels, factor)
