//! The health of a pool as written: how its backends are probed. Owns the defaults of the table.

use std::time::Duration;

use super::check::{Check, or, period};
use super::file;
use super::read::Written;
use super::snapshot::{Health, ProbeMethod};
use super::value::{Count, Or};

impl Check<'_> {
    /// `None`: nothing is probed.
    pub(super) fn health(&mut self, table: &file::Pool) -> Option<Health> {
        let (Or::Is(table), _) = table.health.good()? else { return None };
        let health = Health {
            method: match or(&table.method, file::ProbeMethod::Options) {
                file::ProbeMethod::Options => ProbeMethod::Options,
                file::ProbeMethod::Crlf => ProbeMethod::Crlf,
            },
            interval: period(&table.interval, Duration::from_secs(5)),
            timeout: period(&table.timeout, Duration::from_secs(2)),
            rise: self.in_a_row(&table.rise, 2),
            fall: self.in_a_row(&table.fall, 3),
        };
        for (written, value) in
            [(&table.interval, health.interval), (&table.timeout, health.timeout)]
        {
            if let Some((_, at)) = written.good()
                && value < SHORTEST
            {
                let why = "probes that follow each other so fast are a load of their own";
                self.fault(at, why, "write 100ms or more");
            }
        }
        Some(health)
    }

    fn in_a_row(&mut self, written: &Written<Count>, default: u8) -> u8 {
        match written.good() {
            Some((Count(times), at)) if *times > TIMES_MAX => {
                let why = format!("{times} probes in a row: {TIMES_MAX} are the most");
                self.fault(at, why, format!("write at most {TIMES_MAX}"));
                default
            }
            Some((Count(times), _)) => *times as u8,
            None => default,
        }
    }
}

/// The wheel of deadlines turns by 4 ms; a tenth of a second leaves an answer over any link its time.
const SHORTEST: Duration = Duration::from_millis(100);
/// Beyond this nothing would ever come up or go down.
const TIMES_MAX: u32 = 100;
