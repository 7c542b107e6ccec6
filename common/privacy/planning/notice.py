"""What is said of a campaign's privacy wherever a number of it is shown: in full, or that there is none."""

from __future__ import annotations

from common.privacy.accounting import of_plan
from common.privacy.planning import private_steps
from common.sections.secure import SecureSettings
from common.settings import Settings
from common.text.notices import NO_PRIVACY, NO_TABLES


def label(settings: Settings) -> str:
    """A few words: ``no differential privacy``, or epsilon with its unit and delta."""
    if not settings.private:
        return "no differential privacy"
    return f"epsilon {_epsilon(settings):.2f} per patient (delta {_delta(settings):g})"


def sentence(settings: Settings) -> str:
    """Unit, neighbours, accountant, what is counted, and that no tables of patients are given beside it."""
    if not settings.private:
        return NO_PRIVACY
    secure = settings.federation.secure
    shared = f" {_onlookers(settings, secure)}" if secure is not None else ""
    return (
        f"Differential privacy: this campaign costs a patient of a site epsilon {_epsilon(settings):.2f} at delta "
        f"{_delta(settings):g} (one patient added or removed, accounted by privacy loss distributions, over all its "
        f"networks and rounds); what the site releases elsewhere adds to it. {NO_TABLES}{shared}"
    )


def _onlookers(settings: Settings, secure: SecureSettings) -> str:
    from common.privacy.planning.onlookers import onlookers  # noqa: PLC0415  scipy

    assert settings.privacy is not None
    return onlookers(
        [of_plan.steps(settings.privacy, private_steps.steps(settings))],
        survivors=secure.survivors,
        colluders=secure.colluders,
        delta=_delta(settings),
    ).sentence


def _epsilon(settings: Settings) -> float:
    from common.privacy.accounting.accounting import epsilon  # noqa: PLC0415  scipy: only where it is accounted

    assert settings.privacy is not None
    return epsilon([of_plan.steps(settings.privacy, private_steps.steps(settings))], delta=_delta(settings))


def _delta(settings: Settings) -> float:
    assert settings.privacy is not None
    return settings.privacy.delta
