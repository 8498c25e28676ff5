//! The catalogue's formulas: numbers, names, `+ - * /`, comparisons and a few functions.
//! Owns nothing; what the operator reads in `docs/tuning.md` is what is computed here. Never loops, never panics.
//!
//! A *template* is text with formulas in braces: `4096 {p2(C)} {M / 4096}`.

/// What a name stands for.
pub trait Names {
    /// A number by its name, as in the legend of `docs/tuning.md`.
    fn number(&self, name: &str) -> Option<f64>;
    /// A text by its name, for templates: a CPU list, a mask.
    fn text(&self, name: &str) -> Option<String>;
}

/// Nesting of one formula; the catalogue's deepest has five.
const DEPTH_MAX: u32 = 32;

/// The value of a formula. Errors say which word was not understood.
pub fn evaluate(formula: &str, names: &dyn Names) -> Result<f64, String> {
    let mut parser = Parser { rest: formula, names, depth: 0 };
    let value = parser.comparison()?;
    parser.skip();
    if parser.rest.is_empty() {
        Ok(value)
    } else {
        Err(format!("`{}` left over in `{formula}`", parser.rest))
    }
}

/// Fills a template. A formula's value is written as a whole number (nearest).
pub fn fill(template: &str, names: &dyn Names) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let close = rest[open..].find('}').ok_or_else(|| format!("no `}}` in `{template}`"))?;
        let inner = &rest[open + 1..open + close];
        out.push_str(&rest[..open]);
        match names.text(inner.trim()) {
            Some(text) => out.push_str(&text),
            None => out.push_str(&whole(evaluate(inner, names)?)?),
        }
        rest = &rest[open + close + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn whole(value: f64) -> Result<String, String> {
    if !value.is_finite() || value < 0.0 || value > u64::MAX as f64 {
        return Err(format!("{value} is no setting"));
    }
    Ok(format!("{}", value.round() as u64))
}

struct Parser<'a> {
    rest: &'a str,
    names: &'a dyn Names,
    depth: u32,
}

impl<'a> Parser<'a> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, word: &str) -> bool {
        self.skip();
        match self.rest.strip_prefix(word) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn comparison(&mut self) -> Result<f64, String> {
        let left = self.sum()?;
        // Two-letter signs first: `<` is a prefix of `<=`.
        for sign in ["<=", ">=", "==", "!=", "<", ">"] {
            if self.eat(sign) {
                let right = self.sum()?;
                let holds = match sign {
                    "<=" => left <= right,
                    ">=" => left >= right,
                    "==" => left == right,
                    "!=" => left != right,
                    "<" => left < right,
                    _ => left > right,
                };
                return Ok(f64::from(u8::from(holds)));
            }
        }
        Ok(left)
    }

    fn sum(&mut self) -> Result<f64, String> {
        let mut value = self.product()?;
        loop {
            if self.eat("+") {
                value += self.product()?;
            } else if self.eat("-") {
                value -= self.product()?;
            } else {
                return Ok(value);
            }
        }
    }

    fn product(&mut self) -> Result<f64, String> {
        let mut value = self.atom()?;
        loop {
            if self.eat("*") {
                value *= self.atom()?;
            } else if self.eat("/") {
                let by = self.atom()?;
                if by == 0.0 {
                    return Err("division by zero".into());
                }
                value /= by;
            } else {
                return Ok(value);
            }
        }
    }

    fn atom(&mut self) -> Result<f64, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err("nested too deep".into());
        }
        let value = self.atom_inner();
        self.depth -= 1;
        value
    }

    fn atom_inner(&mut self) -> Result<f64, String> {
        if self.eat("(") {
            let value = self.comparison()?;
            return if self.eat(")") { Ok(value) } else { Err("`)` is missing".into()) };
        }
        self.skip();
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        if word.is_empty() {
            return Err(format!("a number or a name is missing before `{}`", self.rest));
        }
        self.rest = rest;
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            return word.parse().map_err(|_| format!("`{word}` is no number"));
        }
        if self.eat("(") {
            return self.call(word);
        }
        self.names.number(word).ok_or_else(|| format!("`{word}` is not known"))
    }

    fn call(&mut self, name: &str) -> Result<f64, String> {
        let mut arguments = Vec::new();
        loop {
            arguments.push(self.comparison()?);
            if self.eat(")") {
                break;
            }
            if !self.eat(",") {
                return Err(format!("`,` or `)` is missing in {name}(...)"));
            }
        }
        match (name, arguments.as_slice()) {
            ("p2", [x]) => Ok(power_of_two(*x)),
            ("ceil", [x]) => Ok(x.ceil()),
            ("floor", [x]) => Ok(x.floor()),
            ("min", [a, b]) => Ok(a.min(*b)),
            ("max", [a, b]) => Ok(a.max(*b)),
            ("clamp", [x, low, high]) => Ok(x.max(*low).min(*high)),
            ("if", [condition, then, otherwise]) => {
                Ok(if *condition != 0.0 { *then } else { *otherwise })
            }
            _ => Err(format!("{name}(...) with {} values is not known", arguments.len())),
        }
    }
}

/// The next power of two that is not below `x`.
fn power_of_two(x: f64) -> f64 {
    let mut power = 1.0;
    while power < x && power < 9e18 {
        power *= 2.0;
    }
    power
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Some3;
    impl Names for Some3 {
        fn number(&self, name: &str) -> Option<f64> {
            (name == "C").then_some(3.0)
        }
        fn text(&self, name: &str) -> Option<String> {
            (name == "workers").then(|| "2-5".into())
        }
    }

    #[test]
    fn formulas_mean_what_they_say() {
        for (formula, value) in [
            ("1 + 2 * 3", 7.0),
            ("(1 + 2) * C", 9.0),
            ("p2(1000)", 1024.0),
            ("p2(1024)", 1024.0),
            ("clamp(p2(C), 1024, 65535)", 1024.0),
            ("if(C >= 3, 10, 20)", 10.0),
            ("if(C == 4, 10, 20)", 20.0),
            ("max(min(C, 2), 1) - 1", 1.0),
            ("ceil(C / 2)", 2.0),
            ("10 - 2 - 3", 5.0),
        ] {
            assert_eq!(evaluate(formula, &Some3), Ok(value), "{formula}");
        }
        assert_eq!(fill("a {C * 2} {workers} z", &Some3).unwrap(), "a 6 2-5 z");
    }

    #[test]
    fn nonsense_is_an_error_with_its_word() {
        for formula in ["", "1 +", "D", "f(1)", "p2(1", "1 2", "1 / 0", "1..2", ")", "p2()"] {
            assert!(evaluate(formula, &Some3).is_err(), "{formula}");
        }
        let deep = "(".repeat(10_000);
        assert!(evaluate(&deep, &Some3).is_err());
        assert!(fill("{C", &Some3).is_err());
        assert!(fill("{0 - 1}", &Some3).is_err());
    }
}
