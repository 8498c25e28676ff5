//! Some hundred seeds of the simulator, and those that once found something, by name. `ringfront sim` runs more.
#![cfg(feature = "sim")]

use ringfront::sim;
use ringfront::sim::setting::Options;

/// Seeds of one test; the tests run at the same time.
const SEEDS: u64 = 50;

#[track_caller]
fn run(seed: u64) -> sim::Outcome {
    let outcome = sim::run(seed, sim::RUNGS);
    assert!(
        outcome.violations.is_empty(),
        "seed {seed} of {}: {:#?}\n{}",
        sim::VERSION,
        outcome.violations,
        outcome.ladder
    );
    outcome
}

#[track_caller]
fn run_all(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let outcome = run(seed);
        assert!(outcome.transactions >= 200, "seed {seed}: {}", outcome.transactions);
        assert!(outcome.connections >= 8, "seed {seed}: {}", outcome.connections);
    }
}

#[test]
fn seeds_of_the_first_quarter_are_good() {
    run_all(0..SEEDS);
}

#[test]
fn seeds_of_the_second_quarter_are_good() {
    run_all(SEEDS..2 * SEEDS);
}

#[test]
fn seeds_of_the_third_quarter_are_good() {
    run_all(2 * SEEDS..3 * SEEDS);
}

#[test]
fn seeds_of_the_last_quarter_are_good() {
    run_all(3 * SEEDS..4 * SEEDS);
}

/// TLS with the true provider, panics, drains: the same events again.
#[test]
fn a_seed_gives_the_same_events_each_time() {
    for seed in [0, 3, 5, 18, 27, 44] {
        let (one, two) = (run(seed), run(seed));
        assert_eq!((one.events, one.digest), (two.events, two.digest), "seed {seed}");
    }
}

/// A link whose certificate names the whole pool was believed to be every backend of it.
#[test]
fn regression_a_backend_answered_for_another() {
    run(18);
}

/// A listener that paused for want of descriptors kept a worker without room from sleeping.
#[test]
fn regression_a_full_worker_never_slept() {
    run(5);
}

/// What a seed draws is what it drew before: named seeds stay what they are named after.
#[test]
fn a_quiet_seed_has_no_faults() {
    let options = Options::drawn(8);
    assert!(options.is_calm());
    assert!(!Options::drawn(5).is_calm());
}
