"""One file per group of endpoints; each builds an `APIRouter`."""
