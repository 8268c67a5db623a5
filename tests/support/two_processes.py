"What one process and two processes compute, for test_objectives.py."

import torch
import torch.distributed as dist

from vidlankd_nb.objectives import make_objective

CASES = {
    'infonce': ('infonce', {}, {}),
    'infonce capped': ('infonce', {'max_tokens': 9}, {}),
    'ntxent': ('ntxent', {}, {}),
    'crd': ('crd', {'queue': 30, 'dim': 6}, {}),
    'crd capped': ('crd', {'queue': 30, 'dim': 6, 'max_tokens': 9}, {}),
    'crd_bank': ('crd_bank', {'negatives': 7, 'dim': 6}, {'n_examples': 20}),
    'nst poly': ('nst', {}, {}),
    'sentence': ('sentence', {}, {}),
    'nst gaussian': ('nst', {'kernel': 'gaussian'}, {}),
    'nst mean': ('nst', {'kernel': 'gaussian', 'sigma': 'mean'}, {}),
    'nst linear': ('nst', {'kernel': 'linear'}, {}),
    'sum': ('5*l2+.3*crd', {'crd': {'queue': 30, 'dim': 6}}, {}),
    'sum of separable': ('nst+2*l2', {'nst': {'over': 'sequence'}}, {}),
}


def batch(step, n=6, l=5, ds=8, dt=10):
    "The global batch of a step: the second half has far fewer real tokens."
    gen = torch.Generator().manual_seed(100 + step)
    s, t = (
        torch.randn(n, l, ds, generator=gen, dtype=torch.float64),
        torch.randn(n, l, dt, generator=gen, dtype=torch.float64),
    )
    mask = torch.arange(l) < torch.tensor([5, 4, 5, 1, 0, 3])[:, None]
    s[~mask], t[~mask] = float('nan'), float('nan')
    return s, t, mask, (torch.arange(n) * 3 + step) % 20


def run(name, rank=0, world=1, steps=3):
    "Losses, gradients as data-parallel training would have them, and buffers after a few steps."
    torch.manual_seed(0)
    objective, out = make_objective(CASES[name][0], 8, 10, CASES[name][1], **CASES[name][2]).double(), []
    for step in range(steps):
        s, t, mask, ids = (x.chunk(world)[rank] for x in batch(step))
        s = s.clone().requires_grad_()
        loss, log = objective(s, t, mask, ids, torch.tensor(step))
        for p in objective.parameters():
            p.grad = None
        loss.backward()
        for p in objective.parameters():
            if world > 1:
                dist.all_reduce(p.grad)
        out.append(
            dict(
                loss=loss.detach(),
                s=s.grad / world,
                log=log,
                params={k: p.grad / world for k, p in objective.named_parameters()},
                buffers={k: b.clone() for k, b in objective.named_buffers()},
            )
        )
    return out


def work(rank, folder):
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    torch.set_num_threads(1)
    torch.save({name: run(name, rank, 2) for name in CASES}, f'{folder}/{rank}.pt')
    dist.destroy_process_group()
