"Objectives as NumPy loops, written from their formulas and sharing no code with the package."

import numpy as np


def tokens(mask):
    return [(b, l) for b in range(mask.shape[0]) for l in range(mask.shape[1]) if mask[b, l]]


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def unit(x):
    return x / np.sqrt((x**2).sum())


def soft_label(s, t, mask, tau=2.0):
    out = []
    for i in tokens(mask):
        p, q = softmax(t[i] / tau), softmax(s[i] / tau)
        out.append((p * np.log(p / q)).sum())
    return tau**2 * np.mean(out)


def l2(s, t, mask, normalise='token'):
    def scale(x):
        if normalise == 'token':
            return (x - x.mean()) / np.sqrt(x.var() + 1e-6)
        return unit(x) * np.sqrt(len(x)) if normalise == 'unit' else x

    return np.mean([((scale(s[i]) - scale(t[i])) ** 2).mean() for i in tokens(mask)])


def mmd(s, t, kernel, sigma):
    "`s` (n, D_s), `t` (n, D_t): neurons are columns."
    x, y = ([unit(c) for c in z.T] for z in (s, t))
    var = np.mean([((a - b) ** 2).sum() for a in x for b in y]) if sigma == 'mean' else sigma**2
    k = dict(
        poly=lambda a, b: (a @ b) ** 2,
        linear=lambda a, b: a @ b,
        gaussian=lambda a, b: np.exp(-((a - b) ** 2).sum() / (2 * var)),
    )[kernel]

    def mean(u, v):
        return np.mean([k(a, b) for a in u for b in v])

    return mean(y, y) + mean(x, x) - 2 * mean(x, y)


def nst(s, t, mask, over='batch', kernel='poly', sigma=1.0):
    if over == 'batch':
        return mmd(s[mask], t[mask], kernel, sigma)
    return np.mean(
        [mmd(s[b][mask[b]], t[b][mask[b]], kernel, sigma) for b in range(len(s)) if mask[b].sum() >= 2]
    )


def infonce(s, t, mask, temperature=0.1):
    z = np.array([[unit(a) @ unit(b) / temperature for b in t[mask]] for a in s[mask]])
    return np.mean([-(np.log(softmax(z[i])[i]) + np.log(softmax(z[:, i])[i])) / 2 for i in range(len(z))])


def sentence(s, t, mask, temperature=0.05):
    "Cosine, and a contrast both ways, of the mean states of texts that have a token."
    texts = [b for b in range(len(s)) if mask[b].any()]
    mine = [unit(s[b][mask[b]].mean(0)) for b in texts]
    theirs = [unit(t[b][mask[b]].mean(0)) for b in texts]
    z = np.array([[a @ b / temperature for b in theirs] for a in mine])
    total = 0.0
    for i in range(len(texts)):
        total += 1 - mine[i] @ theirs[i]
        total -= (np.log(softmax(z[i])[i]) + np.log(softmax(z[:, i])[i])) / 2
    return total / len(texts)


def ntxent(s, t, mask, temperature=0.1):
    total = 0.0
    for b, l in tokens(mask):
        here = [r for r in range(len(s)) if mask[r, l]]
        views = [('s', r) for r in here] + [('t', r) for r in here]
        state = {('s', r): unit(s[r, l]) for r in here} | {('t', r): unit(t[r, l]) for r in here}
        for me, mate in ((('s', b), ('t', b)), (('t', b), ('s', b))):
            z = {v: state[me] @ state[v] / temperature for v in views if v != me}
            total += -(z[mate] - np.log(sum(np.exp(x) for x in z.values()))) / 2
    return total / mask.sum()


def crd(s, t, mask, embed_s, embed_t, temperature=0.07):
    "First step: no queue yet. `embed_*` are (weight, bias)."
    x, y = ([unit(w @ a + c) for a in z[mask]] for z, (w, c) in ((s, embed_s), (t, embed_t)))
    e = np.exp(np.array([[a @ b / temperature for b in y] for a in x]))
    n = len(x)
    threshold = (n - 1) * e.mean()
    h = e / (e + threshold)
    return (
        sum(
            -2 * np.log(h[i, i]) - sum(np.log(1 - h[i, j]) + np.log(1 - h[j, i]) for j in range(n) if j != i)
            for i in range(n)
        )
        / n
    )


def voken(s, v, mask, classify):
    w, c = classify
    return np.mean([-np.log(softmax(w @ s[i] + c)[v[i]]) for i in tokens(mask)])
