//! Host facts, doctor and tune over the catalogue in `tuning/`.
