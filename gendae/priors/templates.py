"""What a Parzen prior stores: a capped choice of codes, and the directions in which they vary locally."""

import math
import warnings

import torch
from torch import Generator, Tensor

CHOICES = ("reservoir", "kmeans")
#: k-means looks at no more than this many codes for each centre: more hardly move a mean.
CODES_PER_CENTRE = 5
LLOYD_STEPS = 3


def choose(codes: Tensor, capacity: int, choice: str, generator: Generator) -> Tensor:
    """At most `capacity` codes: a uniform subset, or the centres of k-means started from one.

    The order of the codes is random already, so that the first ones are a uniform subset.
    """
    if choice == "reservoir" or len(codes) <= capacity:
        return codes[:capacity].clone()
    from sklearn.cluster import KMeans

    pool = codes[: CODES_PER_CENTRE * capacity].cpu()
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that so few steps have not converged
        means = (
            KMeans(
                capacity,
                init=pool[:capacity].numpy(),
                n_init=1,
                max_iter=LLOYD_STEPS,
                random_state=seed,
            )
            .fit(pool.numpy())
            .cluster_centers_
        )
    return torch.from_numpy(means).to(codes)


def local_directions(codes: Tensor, neighbours: int, components: int) -> tuple[Tensor, Tensor]:
    """Principal directions of the differences from each code to its nearest other codes.

    Args:
        codes: (n, d).
        neighbours: number k of nearest neighbours, k < n.
        components: number r of directions kept, at most min(k, d).

    Returns:
        Orthonormal directions (n, r, d), zero where there are fewer, and the variances along them (n, r):
        leading eigenvalues of 1/k sum_j (mu_j - mu_i)(mu_j - mu_i)^T.
    """
    from sklearn.neighbors import NearestNeighbors

    points = codes.cpu().numpy()
    index = NearestNeighbors(n_neighbors=neighbours).fit(points).kneighbors(return_distance=False)
    index = torch.from_numpy(index).to(codes.device)
    r = min(components, neighbours, codes.shape[1])
    directions = codes.new_zeros(len(codes), r, codes.shape[1])
    variances = codes.new_zeros(len(codes), r)
    block = max(1, 2**24 // (neighbours * codes.shape[1]))
    for start in range(0, len(codes), block):
        rows = slice(start, start + block)
        d = (codes[index[rows]] - codes[rows, None]) / math.sqrt(neighbours)
        values, vectors = torch.linalg.eigh(d @ d.mT)  # k by k: its leading part is that of d by d
        values, vectors = values.flip(-1)[:, :r], vectors.flip(-1)[..., :r]
        real = values > values[:, :1] * d.shape[1] * torch.finfo(codes.dtype).eps
        values = torch.where(real, values, torch.zeros_like(values))
        inverse_root = torch.where(real, values, torch.ones_like(values)).rsqrt() * real
        directions[rows] = (vectors * inverse_root[:, None]).mT @ d
        variances[rows] = values
    return directions, variances
