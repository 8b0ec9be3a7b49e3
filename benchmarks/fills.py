"""What fills in missing pixels without a model: the mark that a model is to pass.

Each takes images (n, pixels) and which pixels are given, (pixels,), and returns images whose given
pixels are as they were. The mean of the training images knows nothing of the image, the nearest
neighbours nothing of its parts, the biharmonic surface nothing of other images, and the linear map
only covariances.
"""

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

from gendae.checks import ImageShape
from gendae.inference import fill


def mean_fill(x, given, train):
    """The mean of training images."""
    return fill(x, given, train.mean(0).expand_as(x))


def nearest_fill(x, given, train, k=5):
    """The mean of the k training images that are nearest in the given pixels."""
    neighbours = KNeighborsRegressor(k).fit(train[:, given].numpy(), train.numpy())
    means = neighbours.predict(x[:, given].numpy())

    return fill(x, given, torch.from_numpy(means).to(x))


def linear_fill(x, given, train, alpha=1.0):
    """E[missing | given] of a Gaussian with the moments of the training images (ridge alpha)."""
    regression = Ridge(alpha).fit(train[:, given].numpy(), train.numpy())
    means = regression.predict(x[:, given].numpy()).clip(0.0, 1.0)

    return fill(x, given, torch.from_numpy(means).to(x))


def biharmonic_fill(x, given, shape):
    """The smoothest surface through the given pixels, of each channel: its Laplacian is harmonic.

    Source: Damelin and Hoang 2018, as scikit-image has it. The mask is of all channels.
    """
    try:
        from skimage.restoration import inpaint_biharmonic
    except ImportError:
        raise ValueError("biharmonic_fill needs scikit-image; pip install scikit-image") from None

    shape = ImageShape.of(shape)
    masks = shape.images(~given)[0]
    if not bool((masks == masks[0]).all()):
        raise ValueError("given differs from channel to channel; one mask of all is needed")

    images = shape.images(x).double().numpy()
    filled = [inpaint_biharmonic(image, masks[0].numpy(), channel_axis=0) for image in images]
    surfaces = torch.from_numpy(np.stack(filled)).clamp(0.0, 1.0)

    return fill(x, given, surfaces.reshape_as(x).to(x))
