"""Denoising and inpainting without a network, by scikit-image and scikit-learn: the baselines of a network.

Images are (N, C, H, W) float in [0, 1] throughout; `sigma` is the standard deviation of the noise.
"""

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.decomposition import PCA

from hfembed.errors import InputError

try:
    from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, inpaint_biharmonic
except ImportError as error:
    raise InputError('the classic methods need scikit-image: pip install "hfembed[images]"') from error


def non_local_means(noisy: np.ndarray, sigma: float, strength: float) -> np.ndarray:
    """Averages of similar patches: Buades, Coll and Morel, "A non-local algorithm for image denoising", 2005.

    `strength` is the cut-off distance in units of sigma.
    """
    return _each(
        noisy,
        lambda image, axis: denoise_nl_means(
            image, patch_size=5, patch_distance=6, h=strength * sigma, sigma=sigma, channel_axis=axis
        ),
    )


def total_variation(noisy: np.ndarray, sigma: float, strength: float) -> np.ndarray:
    """The nearest image of small total variation: Rudin, Osher and Fatemi, 1992, by Chambolle's algorithm, 2004.

    `strength` is the weight of the variation in units of sigma.
    """
    return _each(noisy, lambda image, axis: denoise_tv_chambolle(image, weight=strength * sigma, channel_axis=axis))


class PcaWiener:
    """The linear filter of least error for images (M, C, H, W) in [0, 1] like those it was fitted on.

    Principal components, at most M, are shrunk by variance / (variance + sigma ** 2), the Wiener filter in their
    basis; what lies outside of them is given up. Needs aligned images of one size, as the network does not.
    """

    def __init__(self, clean: np.ndarray, components: int = 512, seed: int = 0):
        flat = clean.reshape(len(clean), -1)
        self.pca = PCA(min(components, *flat.shape), svd_solver="randomized", random_state=seed).fit(flat)

    def __call__(self, noisy: np.ndarray, sigma: float, strength: float) -> np.ndarray:
        """Denoise; `strength` multiplies sigma."""
        variance = self.pca.explained_variance_
        codes = self.pca.transform(noisy.reshape(len(noisy), -1))
        shrunk = codes * (variance / (variance + (strength * sigma) ** 2))
        return self.pca.inverse_transform(shrunk).reshape(noisy.shape)


# multiples of sigma to choose from, around what each method's authors recommend
STRENGTHS = {
    non_local_means: (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15),
    total_variation: (0.6, 0.8, 1.0, 1.2, 1.4, 1.7),
}
FILL_STRENGTHS = (1e-4, 3e-4, 1e-3)  # variance added to every pixel by the Gaussian fill
PCA_STRENGTHS = (0.6, 0.8, 0.9, 1.0, 1.1, 1.3)


def choose_strength(
    method: Callable[[np.ndarray, float, float], np.ndarray],
    strengths: Sequence[float],
    clean: np.ndarray,
    noisy: np.ndarray,
    sigma: float,
) -> float:
    """The parameter of least squared error on images that are not tested."""
    errors = [float(((np.clip(method(noisy, sigma, s), 0, 1) - clean) ** 2).mean()) for s in strengths]
    return strengths[int(np.argmin(errors))]


def biharmonic_fill(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Fill holes by the smoothest continuation; `masks` (N, H, W) bool are true inside.

    Damelin and Hoang, "On surface completion and image inpainting by biharmonic functions", 2018.
    """
    filled = [
        inpaint_biharmonic(image.transpose(1, 2, 0), mask, channel_axis=2).transpose(2, 0, 1)
        for image, mask in zip(images, masks, strict=True)
    ]
    return np.stack(filled)


def _each(images: np.ndarray, method: Callable[[np.ndarray, int | None], np.ndarray]) -> np.ndarray:
    """Image by image, as (H, W) with axis None or (H, W, C) with axis 2."""
    if images.shape[1] == 1:
        return np.stack([method(image[0], None)[None] for image in images])
    return np.stack([method(image.transpose(1, 2, 0), 2).transpose(2, 0, 1) for image in images])
