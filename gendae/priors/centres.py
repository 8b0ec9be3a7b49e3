"""What a Parzen prior stores: a capped choice of codes, and the directions in which they vary."""

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
    kmeans = KMeans(
        capacity,
        init=pool[:capacity].numpy(),
        n_init=1,
        max_iter=LLOYD_STEPS,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few steps do not converge
        kmeans.fit(pool.numpy())

    return torch.from_numpy(kmeans.cluster_centers_).to(codes)


def local_directions(codes: Tensor, neighbours: int, components: int) -> tuple[Tensor, Tensor]:
    """Principal directions of the differences from each code to its nearest other codes.

    Args:
        codes: (n, d).
        neighbours: number k of nearest neighbours, k < n.
        components: number r of directions kept, at most min(k, d).

    Returns:
        Orthonormal directions (n, r, d), zero where there are fewer, and the variances along them
        (n, r): leading eigenvalues of 1/k sum_j (mu_j - mu_i)(mu_j - mu_i)^T.
    """
    from sklearn.neighbors import NearestNeighbors

    points = codes.cpu().numpy()
    search = NearestNeighbors(n_neighbors=neighbours).fit(points)
    nearest = search.kneighbors(return_distance=False)
    index = torch.from_numpy(nearest).to(codes.device)

    r = min(components, neighbours, codes.shape[1])
    directions = codes.new_zeros(len(codes), r, codes.shape[1])
    variances = codes.new_zeros(len(codes), r)
    block = max(1, 2**24 // (neighbours * codes.shape[1]))
    for start in range(0, len(codes), block):
        rows = slice(start, start + block)
        differences = (codes[index[rows]] - codes[rows, None]) / math.sqrt(neighbours)
        directions[rows], variances[rows] = _principal(differences, r)

    return directions, variances


def _principal(d: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """The r leading eigenvectors (n, r, d) and eigenvalues (n, r) of each d^T d; d is (n, k, d).

    They come from the k by k matrix d d^T, whose leading eigenvalues are the same.
    """
    values, vectors = torch.linalg.eigh(d @ d.mT)
    values = values.flip(-1)[:, :r]
    vectors = vectors.flip(-1)[..., :r]

    real = values > values[:, :1] * d.shape[1] * torch.finfo(d.dtype).eps
    values = torch.where(real, values, torch.zeros_like(values))
    inverse_root = torch.where(real, values, torch.ones_like(values)).rsqrt() * real

    return (vectors * inverse_root[:, None]).mT @ d, values
