"""Who belongs to the federation: home, certificates, enrolment, registry."""
