//! What a load run must have reached: `p99<5ms,errors=0`, read into a list of conditions and judged over a tally.
//! Owns the conditions. Never measures anything.
//! Invariant: a condition over a quantity that the run has no value for is not met.

use std::fmt;
use std::time::Duration;

use super::tally::{Measure, Tally};

/// Conditions that all must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expectations {
    conditions: Vec<Condition>,
}

/// One condition: `quantity relation value`.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    quantity: Quantity,
    relation: Relation,
    /// In nanoseconds for latencies, in operations per second for the rate, else a plain count.
    value: f64,
    /// As written by the user.
    text: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Quantity {
    /// A percentile of the operation's latency, 0 to 100.
    Percentile(f64),
    Mean,
    Max,
    Errors,
    Operations,
    /// Operations finished per second.
    Rate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
}

/// A condition that was not met.
#[derive(Clone, Debug, PartialEq)]
pub struct Miss {
    /// The condition as written.
    pub condition: Box<str>,
    /// What the run had, with its unit.
    pub found: String,
}

/// A condition that cannot be read: what, and what would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectFault {
    pub condition: Box<str>,
    pub why: &'static str,
}

impl fmt::Display for ExpectFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read the condition `{}`: {}", self.condition, self.why)
    }
}

impl std::error::Error for ExpectFault {}

impl Expectations {
    /// Reads a comma list of conditions such as `p99<5ms, p99.9<=20ms, errors=0, rate>10000`.
    pub fn parse(text: &str) -> Result<Expectations, ExpectFault> {
        let conditions = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(Condition::parse)
            .collect::<Result<_, _>>()?;
        Ok(Expectations { conditions })
    }

    /// The conditions that the run did not meet; `seconds` is the length of the measured window.
    pub fn judge(&self, tally: &Tally, seconds: f64) -> Vec<Miss> {
        self.conditions.iter().filter_map(|condition| condition.judge(tally, seconds)).collect()
    }
}

impl Condition {
    fn parse(text: &str) -> Result<Condition, ExpectFault> {
        let fault = |why| ExpectFault { condition: text.into(), why };
        let at = text
            .find(['<', '>', '='])
            .ok_or_else(|| fault("it has no relation; write for example p99<5ms or errors=0"))?;
        let (name, rest) = text.split_at(at);
        let (relation, value) = Relation::split(rest);
        let quantity = Quantity::named(name.trim()).ok_or_else(|| {
            fault("the quantity is none of pN, mean, max, errors, operations, rate")
        })?;
        let value = value.trim();
        let value = match quantity {
            Quantity::Percentile(_) | Quantity::Mean | Quantity::Max => nanoseconds(value)
                .ok_or_else(|| fault("a latency is a number with a unit: ns, us, ms or s"))?,
            Quantity::Errors | Quantity::Operations | Quantity::Rate => value
                .parse()
                .ok()
                .filter(|number: &f64| number.is_finite() && *number >= 0.0)
                .ok_or_else(|| fault("the value is not a number"))?,
        };
        Ok(Condition { quantity, relation, value, text: text.into() })
    }

    fn judge(&self, tally: &Tally, seconds: f64) -> Option<Miss> {
        let operations = tally.histogram(Measure::Operation);
        let latency = |value: f64| (!operations.is_empty()).then_some(value);
        let found = match self.quantity {
            Quantity::Percentile(percentile) => {
                latency(operations.value_at_percentile(percentile) as f64)
            }
            Quantity::Mean => latency(operations.mean()),
            Quantity::Max => latency(operations.max() as f64),
            Quantity::Errors => Some(tally.errors_total() as f64),
            Quantity::Operations => Some(operations.len() as f64),
            Quantity::Rate => (seconds > 0.0).then(|| tally.completed as f64 / seconds),
        };
        if found.is_some_and(|found| self.relation.holds(found, self.value)) {
            return None;
        }
        Some(Miss { condition: self.text.clone(), found: self.quantity.show(found) })
    }
}

impl Quantity {
    fn named(name: &str) -> Option<Quantity> {
        match name {
            "mean" => Some(Quantity::Mean),
            "max" => Some(Quantity::Max),
            "errors" => Some(Quantity::Errors),
            "operations" => Some(Quantity::Operations),
            "rate" => Some(Quantity::Rate),
            _ => {
                let percentile: f64 = name.strip_prefix('p')?.parse().ok()?;
                (0.0..=100.0).contains(&percentile).then_some(Quantity::Percentile(percentile))
            }
        }
    }

    fn show(self, found: Option<f64>) -> String {
        match (self, found) {
            (_, None) => "nothing was measured".into(),
            (Quantity::Percentile(_) | Quantity::Mean | Quantity::Max, Some(nanos)) => {
                format!("{:?}", Duration::from_nanos(nanos as u64))
            }
            (Quantity::Rate, Some(rate)) => format!("{rate:.0}/s"),
            (Quantity::Errors | Quantity::Operations, Some(count)) => format!("{count:.0}"),
        }
    }
}

impl Relation {
    /// Takes the relation off the front of `text`, which begins with one of `<`, `>`, `=`.
    fn split(text: &str) -> (Relation, &str) {
        for (sign, relation) in [
            ("<=", Relation::LessOrEqual),
            (">=", Relation::GreaterOrEqual),
            ("==", Relation::Equal),
            ("<", Relation::Less),
            (">", Relation::Greater),
        ] {
            if let Some(value) = text.strip_prefix(sign) {
                return (relation, value);
            }
        }
        (Relation::Equal, text.strip_prefix('=').unwrap_or(text))
    }

    fn holds(self, found: f64, value: f64) -> bool {
        match self {
            Relation::Less => found < value,
            Relation::LessOrEqual => found <= value,
            Relation::Greater => found > value,
            Relation::GreaterOrEqual => found >= value,
            Relation::Equal => (found - value).abs() < f64::EPSILON,
        }
    }
}

/// A number with one of the units ns, us, ms, s.
fn nanoseconds(text: &str) -> Option<f64> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit_at);
    let scale = match unit {
        "ns" => 1.0,
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ => return None,
    };
    let number: f64 = number.trim().parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number * scale)
}

#[cfg(test)]
mod tests {
    use super::super::tally::Fault;
    use super::*;

    fn run() -> Tally {
        let mut tally = Tally::new();
        for micros in 1..=100 {
            tally.record(Measure::Operation, micros * 1_000);
            tally.completed += 1;
        }
        tally
    }

    fn missed(text: &str, tally: &Tally) -> Vec<String> {
        let misses = Expectations::parse(text).unwrap().judge(tally, 2.0);
        misses.into_iter().map(|miss| format!("{}: {}", miss.condition, miss.found)).collect()
    }

    #[test]
    fn conditions_that_hold_are_silent() {
        let text = "p50<60us, p99<=100us, p99.9<1ms, max<0.2ms, mean<51us, errors=0, rate>=50, \
                    operations==100";
        assert_eq!(missed(text, &run()), Vec::<String>::new());
    }

    #[test]
    fn a_miss_says_what_was_found() {
        let mut tally = run();
        tally.fault(Fault::Timeout);
        assert_eq!(missed("errors=0,rate>1000", &tally), ["errors=0: 1", "rate>1000: 50/s"]);
        assert!(missed("p99<50us", &tally)[0].starts_with("p99<50us: 99"));
    }

    #[test]
    fn nothing_measured_meets_no_latency() {
        assert_eq!(missed("p99<1s", &Tally::new()), ["p99<1s: nothing was measured"]);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for text in
            ["p99", "p101<1ms", "p99<5", "p99<5m", "speed>1", "errors=x", "p<1ms", "rate>-1"]
        {
            let fault = Expectations::parse(text).unwrap_err();
            assert_eq!(&*fault.condition, text, "{fault}");
        }
        assert!(Expectations::parse(" , ").unwrap().conditions.is_empty());
    }
}
