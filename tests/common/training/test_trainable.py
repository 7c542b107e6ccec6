from dataclasses import replace

import torch

from common.networks.spec import NetworkSpec, Target
from common.training import trainable
from tests.exam_tensors import make_exams

SPEC = NetworkSpec(
    name="rheumatoid",
    images=("gs",),
    target=Target(measurement="rheumatoid", kind="nominal", threshold=None),
    fold=0,
)


def test_of_a_diagnosis_enough_patients_of_each_class_stand_behind_a_network() -> None:
    """24 patients of two exams, every second of whom trains outside of fold 0; one in three of these has class 1."""
    data = make_exams(48)
    rare = (data.patient % 6 == 1).to(torch.int8)
    data = replace(data, grades={"rheumatoid": rare})
    found = trainable.behind(data, SPEC, minimum_cohort=5)
    assert (found.classes, found.objection) == (2, "")
    patients = found.rarest
    assert 0 < patients < 5
    enough, few = ({"rheumatoid": patients + more} for more in (0, 1))
    assert trainable.trains(data, SPEC, minimum_cohort=5, of_class=enough)
    refused = trainable.behind(data, SPEC, minimum_cohort=5, of_class=few)
    assert refused.objection == (
        f"{patients} patients have one of the diagnoses, policy.diagnosis_cohort is {patients + 1}"
    )
    said = trainable.prospects(data, [SPEC], minimum_cohort=5, of_class=few)["rheumatoid"].sentence(
        "rheumatoid"
    )
    assert "below policy.diagnosis_cohort: this site would train nothing for rheumatoid" in said
    assert trainable.trains(data, SPEC, minimum_cohort=5, of_class={"synovitis": 100})
