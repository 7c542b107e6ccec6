"""The privacy ledger: what was booked to whom, what receipts say of it, and whether it is whole."""
