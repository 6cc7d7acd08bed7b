"""What each account adds to the loss of the system: exact on a continuum, by differences on single accounts."""

import jax
import jax.numpy as jnp
import numpy as np
import one_account as one
import pytest

import tailrisk as tr
from tailrisk import impact, market
from tailrisk._fields import InputError
from tailrisk._streams import noise_keys
from tailrisk.data.series import PriceArray
from tailrisk.gradients import marginal_loss
from tailrisk.gradients.marginal import _scaled
from tailrisk.scenario import Accounts, SmoothLadder, SortedLadder
from tailrisk.simulate import batch, entry_point, simulate

PATHS, ACCOUNTS = 64 * 8, 40


def crowd(**parts):
    """Longs and some shorts of unequal size, tiered margins, impact that sales do not run away on."""
    rng = np.random.default_rng(7)
    units = 1_000.0 * rng.lognormal(0.0, 1.0, ACCOUNTS) * np.where(np.arange(ACCOUNTS) % 5, 1.0, -1.0)
    cash = np.abs(units) * one.PRICE * rng.uniform(0.03, 0.12, ACCOUNTS)
    default = {
        "book": one.GivenBook(units, cash),
        "impact": impact.Linear(impact.ConstantDepth(1e5), 0.1, memory="1d"),
        "positions": SmoothLadder(cells=256),
        "margin": tr.margin.Brackets([0.0, 1e5, 3e5], [0.01, 0.015, 0.02], [30.0, 20.0, 10.0]),
        "market": market.GeometricBrownian(1.2),
        "step": "6h",
    }
    return one.scenario(**default | parts)


def given(**more):
    return {"paths": PATHS, "chunk": 8, "dtype": np.float64} | more


def mean_of(venue):
    """Mean bad debt as a function of the factor of every account, on the paths of `given`."""
    book, keys = venue.book.build(np.array([one.PRICE]), venue.margin), noise_keys(0, "market")

    @entry_point
    def both(factor, along):
        def mean(factor):
            system = venue.assemble(np.float64, positions=_scaled(book, factor))
            return jnp.mean(batch(system, keys, jnp.arange(PATHS, dtype=jnp.uint32))[0]["bad_debt"])

        return jax.jvp(mean, (factor,), (along,))

    return both


def test_parts_of_a_continuum_add_up():
    """The scaling identity to rounding at fixed noise; what impact costs counts twice."""
    venue, ones = crowd(), jnp.ones(ACCOUNTS)
    found = marginal_loss(venue, **given())
    expected, uniform = mean_of(venue)(ones, ones)
    assert found.method == "reverse mode"
    assert found.value.shape == (ACCOUNTS,)
    assert found.value.sum() == pytest.approx(found.total, rel=1e-12)
    assert found.total == pytest.approx(float(uniform), rel=1e-10)
    assert found.total > 1.05 * float(expected)
    assert (found.std_error > 0.0).sum() > ACCOUNTS / 2
    assert found.accepted.any()
    assert (found.buffer >= 0.0).all()


@pytest.mark.slow
def test_each_part_of_a_continuum_is_that_of_differences():
    venue, ones, alone = crowd(), jnp.ones(ACCOUNTS), jnp.eye(ACCOUNTS)
    found, mean = marginal_loss(venue, **given()), mean_of(venue)
    for row in np.argsort(-np.abs(found.value))[[0, 1, 8]]:
        ends = [float(mean(ones + h * alone[row], ones)[0]) for h in (1e-5, -1e-5)]
        assert found.value[row] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)


def pigouvian():
    """CAS-06: bad debt d Q + kappa Q^2 with q = (3, 1), d = 0.02, kappa = 0.01, by a certain fall of a tenth.

    kappa is half of price times slope of the impact, so small at so large a price that the log law is the linear one.
    """
    price, after, units = 1e6, 0.9e6, np.array([3.0, 1.0])
    cash = units * (price - after) - 0.02 * units
    return one.scenario(
        market=market.Replay(PriceArray(np.array([[price], [after]]), "1min")),
        book=one.GivenBook(units, cash),
        impact=impact.Linear(impact.ConstantDepth(1.0), 2.0 * 0.01 / after, memory="inf y"),
        price=[price],
        horizon="1min",
        step="1min",
    )


@pytest.mark.parametrize("kernel", [SortedLadder(), Accounts()], ids=["ladder", "accounts"])
def test_two_accounts_and_their_externality(kernel):
    """Buffers 0.30 and 0.10 on an expected loss of 0.24: the direct 0.08 once, the impact's 0.16 twice."""
    venue = one.scenario(
        positions=kernel, **{k: getattr(pigouvian(), k) for k in ("market", "book", "impact", "price")}
    )
    venue = type(venue)(
        **{f: getattr(venue, f) for f in venue.__dataclass_fields__} | {"horizon": "1min", "step": "1min"}
    )
    found = marginal_loss(venue, **given(paths=64 * 64, chunk=64))
    loss = simulate(venue.build(np.float64), paths=1)["bad_debt"]
    np.testing.assert_allclose(loss, 0.24, rtol=1e-6)
    np.testing.assert_allclose(found.value, [0.30, 0.10], rtol=1e-6)
    np.testing.assert_allclose([found.total, found.buffer.sum()], 0.40, rtol=1e-6)
    np.testing.assert_allclose(found.bias, 0.0, atol=1e-6)
    assert found.accepted.all()
    assert found.method == "common-random-number differences"


@pytest.mark.slow
def test_parts_of_single_accounts_add_up_within_their_errors():
    """The scaling identity where sizes move events: every account's difference against that of all sizes."""
    venue = crowd(positions=SortedLadder())
    found = marginal_loss(venue, **given(paths=64 * 2_048, chunk=4_096, step=0.1))
    spread = np.sqrt(np.square(found.std_error).sum() + np.square(found.bias_error).sum() + found.total_error**2)
    assert found.total_error < 0.05 * found.total
    assert spread < 0.1 * found.total
    assert abs(found.value.sum() - found.bias.sum() - found.total) < 4.0 * spread


@pytest.mark.slow
def test_a_lone_account_pays_its_own_impact_and_a_crowd_adds_to_it():
    """Acceptance (a) and (c) of the buffer: alone it is its own scaling; more size or company costs more per unit."""

    def parts(*units):
        units = np.array(units)
        book = one.GivenBook(units, units * one.PRICE * 0.05)
        return marginal_loss(
            crowd(book=book, margin=tr.margin.Flat(0.01, 0.03)), **given(paths=64 * 64, chunk=64)
        ).value

    alone, larger, company = parts(4e3), parts(8e3), parts(4e3, 4e3)
    assert company.sum() == pytest.approx(larger.sum(), rel=1e-9)  # splitting into clones changes nothing
    assert larger[0] / 8e3 > 1.02 * alone[0] / 4e3
    assert company[0] > 1.02 * alone[0]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: marginal_loss(crowd(), [ACCOUNTS]), "rows of the book, 0 to 39"),
        (lambda: marginal_loss(crowd(positions=SmoothLadder(clearing=tr.Exact()))), "in reverse; use"),
        (lambda: marginal_loss(crowd(positions=SortedLadder()), list(range(40)) * 2), "name the rows"),
        (lambda: marginal_loss(crowd(positions=SortedLadder()), [0], step=1.5), "share of an account's size"),
        (lambda: marginal_loss(crowd(), outcome="debt", **given()), "outcome 'debt'"),
    ],
    ids=["row", "exact", "many", "step", "outcome"],
)
def test_refusals(call, said):
    with pytest.raises(InputError, match=said):
        call()
