//! Counting: plain words and histograms, one set for each worker, merged by the control plane.

pub mod chart;
pub mod counter;
pub mod latency;
pub mod percentiles;
pub mod recording;
