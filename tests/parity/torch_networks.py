"""The published networks in torch, under the key names of their published state dicts.

Written from the papers' tables: torchvision, torchxrayvision and pytorch-fid are not needed.
"""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


def _conv(inputs, outputs, kernel, stride=1, padding=0, groups=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)


class TorchBottleneck(nn.Module):
    def __init__(self, inputs, width, outputs, stride, groups, project):
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride, 1, groups)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        if project:
            self.downsample = nn.Sequential(
                _conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class TorchResNet(nn.Module):
    def __init__(self, blocks, groups, group_width, classes):
        super().__init__()
        self.conv1, self.bn1 = _conv(3, 64, 7, 2, 3), nn.BatchNorm2d(64)
        inputs = 64
        for stage, count in enumerate(blocks):
            layers, outputs = [], 256 * 2**stage
            for k in range(count):
                stride = 2 if stage and not k else 1
                width = groups * group_width * 2**stage
                layers.append(TorchBottleneck(inputs, width, outputs, stride, groups, k == 0))
                inputs = outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        pooled = x.flatten(2).clamp(min=1e-6).pow(3).mean(dim=2).pow(1 / 3)
        return self.fc(pooled)


class TorchSSCD(nn.Module):
    def __init__(self, blocks=(3, 4, 6, 3), groups=1, group_width=64, dim=512):
        super().__init__()
        self.backbone = TorchResNet(blocks, groups, group_width, dim)

    def forward(self, x):
        return F.normalize(self.backbone(x))


class TorchDenseLayer(nn.Module):
    def __init__(self, inputs, growth):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, 4 * growth, 1)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), _conv(4 * growth, growth, 3, 1, 1)

    def forward(self, x):
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


class TorchTransition(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), _conv(inputs, inputs // 2, 1)

    def forward(self, x):
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2, 2)


class TorchDenseNet(nn.Module):
    def __init__(self, layers=(6, 12, 24, 16), growth=32, first=64, classes=18):
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("conv0", _conv(1, first, 7, 2, 3))
        self.features.add_module("norm0", nn.BatchNorm2d(first))
        self.features.add_module("relu0", nn.ReLU())
        self.features.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        width = first
        for block, count in enumerate(layers, start=1):
            dense = nn.Sequential()
            for k in range(1, count + 1):
                dense.add_module(f"denselayer{k}", TorchDenseLayer(width, growth))
                width += growth
            self.features.add_module(f"denseblock{block}", dense)
            if block < len(layers):
                self.features.add_module(f"transition{block}", TorchTransition(width))
                width //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(width))
        self.classifier = nn.Linear(width, classes)
        self.register_buffer("op_threshs", torch.full((classes,), 0.5))

    def forward(self, x):
        return F.relu(self.features(x)).mean(dim=(2, 3))


class TorchConvNorm(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride=1, padding=0):
        super().__init__()
        self.conv = _conv(inputs, outputs, kernel, stride, padding)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


def _mean(x):
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class TorchMixed5(nn.Module):
    def __init__(self, c, pool):
        super().__init__()
        self.branch1x1 = TorchConvNorm(c, 64, 1)
        self.branch5x5_1 = TorchConvNorm(c, 48, 1)
        self.branch5x5_2 = TorchConvNorm(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = TorchConvNorm(c, 64, 1)
        self.branch3x3dbl_2 = TorchConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = TorchConvNorm(96, 96, 3, padding=1)
        self.branch_pool = TorchConvNorm(c, pool, 1)

    def forward(self, x):
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_mean(x))], 1)


class TorchMixed6a(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.branch3x3 = TorchConvNorm(c, 384, 3, 2)
        self.branch3x3dbl_1 = TorchConvNorm(c, 64, 1)
        self.branch3x3dbl_2 = TorchConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = TorchConvNorm(96, 96, 3, 2)

    def forward(self, x):
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, 2)], 1)


class TorchMixed6(nn.Module):
    def __init__(self, c, w):
        super().__init__()
        wide, tall = ((1, 7), (0, 3)), ((7, 1), (3, 0))
        self.branch1x1 = TorchConvNorm(c, 192, 1)
        self.branch7x7_1 = TorchConvNorm(c, w, 1)
        self.branch7x7_2 = TorchConvNorm(w, w, wide[0], padding=wide[1])
        self.branch7x7_3 = TorchConvNorm(w, 192, tall[0], padding=tall[1])
        self.branch7x7dbl_1 = TorchConvNorm(c, w, 1)
        self.branch7x7dbl_2 = TorchConvNorm(w, w, tall[0], padding=tall[1])
        self.branch7x7dbl_3 = TorchConvNorm(w, w, wide[0], padding=wide[1])
        self.branch7x7dbl_4 = TorchConvNorm(w, w, tall[0], padding=tall[1])
        self.branch7x7dbl_5 = TorchConvNorm(w, 192, wide[0], padding=wide[1])
        self.branch_pool = TorchConvNorm(c, 192, 1)

    def forward(self, x):
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = x
        for k in range(1, 6):
            double = getattr(self, f"branch7x7dbl_{k}")(double)
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_mean(x))], 1)


class TorchMixed7a(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.branch3x3_1 = TorchConvNorm(c, 192, 1)
        self.branch3x3_2 = TorchConvNorm(192, 320, 3, 2)
        self.branch7x7x3_1 = TorchConvNorm(c, 192, 1)
        self.branch7x7x3_2 = TorchConvNorm(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = TorchConvNorm(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = TorchConvNorm(192, 192, 3, 2)

    def forward(self, x):
        seven = x
        for k in range(1, 5):
            seven = getattr(self, f"branch7x7x3_{k}")(seven)
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, 2)], 1)


class TorchMixed7(nn.Module):
    def __init__(self, c, largest):
        super().__init__()
        self.largest = largest
        self.branch1x1 = TorchConvNorm(c, 320, 1)
        self.branch3x3_1 = TorchConvNorm(c, 384, 1)
        self.branch3x3dbl_1 = TorchConvNorm(c, 448, 1)
        self.branch3x3dbl_2 = TorchConvNorm(448, 384, 3, padding=1)
        for name in ("branch3x3_2", "branch3x3dbl_3"):
            setattr(self, f"{name}a", TorchConvNorm(384, 384, (1, 3), padding=(0, 1)))
            setattr(self, f"{name}b", TorchConvNorm(384, 384, (3, 1), padding=(1, 0)))
        self.branch_pool = TorchConvNorm(c, 192, 1)

    def forward(self, x):
        one, two = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, 1, 1) if self.largest else _mean(x)
        parts = [self.branch1x1(x), self.branch3x3_2a(one), self.branch3x3_2b(one)]
        parts += [self.branch3x3dbl_3a(two), self.branch3x3dbl_3b(two), self.branch_pool(pooled)]
        return torch.cat(parts, 1)


class TorchInception(nn.Module):
    """``forward`` takes images in [-1, 1]; ``fid`` takes [0, 1] and resizes to 299 first."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = TorchConvNorm(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = TorchConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = TorchConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = TorchConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = TorchConvNorm(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c = TorchMixed5(192, 32), TorchMixed5(256, 64)
        self.Mixed_5d, self.Mixed_6a = TorchMixed5(288, 64), TorchMixed6a(288)
        self.Mixed_6b, self.Mixed_6c = TorchMixed6(768, 128), TorchMixed6(768, 160)
        self.Mixed_6d, self.Mixed_6e = TorchMixed6(768, 160), TorchMixed6(768, 192)
        self.Mixed_7a, self.Mixed_7b = TorchMixed7a(768), TorchMixed7(1280, largest=False)
        self.Mixed_7c = TorchMixed7(2048, largest=True)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x):
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = getattr(self, f"Mixed_{name}")(x)
        return x.mean(dim=(2, 3))

    def fid(self, x):
        size = (299, 299)
        return self(2 * F.interpolate(x, size, mode="bilinear", align_corners=False) - 1)
