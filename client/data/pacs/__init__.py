"""Pictures from the hospital's archive (PACS) by DICOMweb: searched for and fetched, never changed there."""
