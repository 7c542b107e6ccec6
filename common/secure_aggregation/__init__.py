"""Sums over sites of which the centre sees nothing but the sum (Bonawitz et al. 2017, doi 10.1145/3133956.3133982).

:mod:`~common.secure_aggregation.messages` what is said, :mod:`~common.secure_aggregation.site` what a site does and
refuses, :mod:`~common.secure_aggregation.centre` one attempt at the centre. What is summed are whole numbers
(:mod:`~common.secure_aggregation.fixed_point`); which ones is for the rooms above to say: updates
(:mod:`common.aggregation.update_sum`), or clipped gradients with a share of the noise from every site
(:mod:`common.privacy.mechanism.private_sum`).
"""
