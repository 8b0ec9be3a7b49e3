"""A model of n symbols by counts: interpolated Kneser-Ney with three discounts.

p_k(w | c) = max(N(c w) - D(N(c w)), 0) / N(c) + g(c) p_{k-1}(w | c without its first symbol)

g(c) is what the discounts left over, p_0 is uniform. N counts occurrences at the highest order;
below, in how many ways c w is continued to the left. D is D_1, D_2 or D_3+, estimated from how
many counts are 1, 2, 3 and 4.
Source: Chen and Goodman 1998, "An empirical study of smoothing techniques for language modeling",
section 3; Kneser and Ney 1995.
"""

from collections import Counter, defaultdict

import numpy as np


class KneserNey:
    """Probabilities of the next symbol after n - 1 others.

    Args:
        texts: lists of symbols 0 .. symbols - 1, to count in.
        order: n.
        symbols: size of the vocabulary.

    Example:
        >>> model = KneserNey([[0, 1, 0, 1, 1, 0, 1, 2]], order=3, symbols=4)
        >>> p = model.distribution([0])
        >>> round(float(p.sum()), 12), int(p.argmax()), bool((p > 0).all())
        (1.0, 1, True)
    """

    def __init__(self, texts, order, symbols):
        self.order = order
        self.symbols = symbols

        counts = Counter()
        for text in texts:
            grams = zip(*(text[i:] for i in range(order)), strict=False)
            counts.update(grams)

        self.levels = []
        for _ in range(order):
            self.levels.append(_Level(counts))
            counts = Counter(gram[1:] for gram in counts)
        self.levels.reverse()

    def distribution(self, context):
        """p(w | the last n - 1 symbols), (symbols,)."""
        p = np.full(self.symbols, 1.0 / self.symbols)
        for length, level in enumerate(self.levels):
            if length > len(context):
                break
            p = level.refined(tuple(context[len(context) - length :]), p)

        return p


class _Level:
    """Counts of grams of one length, and the discounts."""

    def __init__(self, counts):
        followers = defaultdict(list)
        for gram, count in counts.items():
            followers[gram[:-1]].append((gram[-1], count))

        self.discounts = _discounts(counts)
        self.contexts = {context: self._row(pairs) for context, pairs in followers.items()}

    def _row(self, pairs):
        """Symbols after a context, their shares, and what is left for shorter contexts."""
        symbols, counts = (np.array(column) for column in zip(*pairs, strict=True))
        discount = self.discounts[np.minimum(counts, 3)]

        return symbols, (counts - discount) / counts.sum(), discount.sum() / counts.sum()

    def refined(self, context, shorter):
        """p_k from p_{k-1}; p_{k-1} itself after a context that was never seen."""
        if context not in self.contexts:
            return shorter

        symbols, shares, left = self.contexts[context]
        p = left * shorter
        p[symbols] += shares
        return p


def _discounts(counts):
    """D_0 = 0, D_1, D_2 and D_3+; halves of the counts where some are missing."""
    of = Counter(min(count, 5) for count in counts.values())
    if not all(of[k] for k in (1, 2, 3, 4)):
        return np.array([0.0, 0.5, 1.0, 1.5])

    y = of[1] / (of[1] + 2.0 * of[2])
    values = [k - (k + 1) * y * of[k + 1] / of[k] for k in (1, 2, 3)]

    return np.array([0.0, *np.clip(values, 0.0, [1.0, 2.0, 3.0])])
