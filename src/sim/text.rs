//! SIP read slowly and obviously, as strings: for the agents and for the naive reference.
//! Owns its text. Never shares a line with `sip/`, so that one cannot hide the other's fault.

/// One message as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The start line without its CRLF.
    pub start: String,
    /// Header lines as written, folds and CRLF included.
    pub lines: Vec<String>,
    pub body: String,
}

/// What stands at the front of a stream.
pub enum Cut {
    More,
    /// A CRLF between messages: two bytes to skip.
    Blank,
    Whole(usize),
    /// Not to be cut into messages.
    Lost,
}

/// Finds the end of the first message: head end, then Content-Length bytes.
pub fn cut(bytes: &[u8]) -> Cut {
    if bytes.starts_with(b"\r\n") {
        return Cut::Blank;
    }
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        return Cut::More;
    };
    let Ok(head) = std::str::from_utf8(&bytes[..end + 2]) else { return Cut::Lost };
    let Some(text) = Text::of_head(head) else { return Cut::Lost };
    let Some(Ok(length)) = text.first("content-length").map(|value| value.parse::<usize>()) else {
        return Cut::Lost;
    };
    if bytes.len() < end + 4 + length { Cut::More } else { Cut::Whole(end + 4 + length) }
}

impl Text {
    pub fn parse(message: &str) -> Option<Text> {
        let (head, body) = message.split_once("\r\n\r\n")?;
        let mut text = Text::of_head(&format!("{head}\r\n"))?;
        text.body = body.to_owned();
        Some(text)
    }

    fn of_head(head: &str) -> Option<Text> {
        let mut lines: Vec<String> = Vec::new();
        let mut rest = head.split_inclusive("\r\n");
        let start = rest.next()?.strip_suffix("\r\n")?.to_owned();
        for line in rest {
            match lines.last_mut() {
                Some(last) if line.starts_with([' ', '\t']) => last.push_str(line),
                _ => lines.push(line.to_owned()),
            }
        }
        Some(Text { start, lines, body: String::new() })
    }

    pub fn is_request(&self) -> bool {
        !self.start.starts_with("SIP/")
    }

    /// The method of a request.
    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    pub fn uri(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// The first value of a header, by its long lower-case name.
    pub fn first(&self, name: &str) -> Option<String> {
        self.lines.iter().find(|line| name_of(line) == name).map(|line| value_of(line))
    }

    /// All values of a list header.
    pub fn values(&self, name: &str) -> Vec<String> {
        let rows = self.lines.iter().filter(|line| name_of(line) == name);
        rows.flat_map(|line| {
            let row = value_of(line);
            split(&row)
                .into_iter()
                .map(|(from, to)| row[from..to].trim().to_owned())
                .collect::<Vec<_>>()
        })
        .collect()
    }

    pub fn call_id(&self) -> String {
        self.first("call-id").unwrap_or_default()
    }

    /// Number and method.
    pub fn cseq(&self) -> (u32, String) {
        let value = self.first("cseq").unwrap_or_default();
        let mut parts = value.split_whitespace();
        let number = parts.next().and_then(|number| number.parse().ok()).unwrap_or(0);
        (number, parts.next().unwrap_or_default().to_owned())
    }

    /// The branch of the topmost Via.
    pub fn branch(&self) -> String {
        let vias = self.values("via");
        vias.first().and_then(|via| parameter(via, "branch")).unwrap_or_default()
    }

    pub fn to_tag(&self) -> Option<String> {
        self.first("to").and_then(|to| parameter(&to, "tag"))
    }

    /// The marker that names this message in the run.
    pub fn marker(&self) -> Option<usize> {
        let value = self.first("x-marker")?;
        value.strip_prefix('m')?.strip_suffix('.')?.parse().ok()
    }

    pub fn set_marker(&mut self, marker: usize) {
        for line in &mut self.lines {
            if name_of(line) == "x-marker" {
                *line = format!("X-Marker: m{marker}.\r\n");
            }
        }
    }

    pub fn remove(&mut self, name: &str) {
        self.lines.retain(|line| name_of(line) != name);
    }
}

impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\r\n", self.start)?;
        self.lines.iter().try_for_each(|line| f.write_str(line))?;
        write!(f, "\r\n{}", self.body)
    }
}

/// The name of a header line: long form, lower case.
pub fn name_of(line: &str) -> String {
    let name = line.split(':').next().unwrap_or_default().trim().to_ascii_lowercase();
    match name.as_str() {
        "v" => "via".to_owned(),
        "f" => "from".to_owned(),
        "t" => "to".to_owned(),
        "i" => "call-id".to_owned(),
        "m" => "contact".to_owned(),
        "l" => "content-length".to_owned(),
        "c" => "content-type".to_owned(),
        "s" => "subject".to_owned(),
        "k" => "supported".to_owned(),
        _ => name,
    }
}

/// Where the value of a header line stands in it, without blanks and folds at its ends.
pub fn value_span(line: &str) -> (usize, usize) {
    let colon = line.find(':').map_or(0, |at| at + 1);
    let blank = |character: char| matches!(character, ' ' | '\t' | '\r' | '\n');
    let start = colon + (line[colon..].len() - line[colon..].trim_start_matches(blank).len());
    let end = line.trim_end_matches(blank).len().max(start);
    (start, end)
}

/// The value of a header line, unfolded.
pub fn value_of(line: &str) -> String {
    let (from, to) = value_span(line);
    let mut value = line[from..to].to_owned();
    while let Some(at) = value.find("\r\n") {
        let rest = value[at + 2..].trim_start_matches([' ', '\t']).to_owned();
        value.truncate(at);
        value = format!("{} {rest}", value.trim_end());
    }
    value
}

/// Spans between commas that stand outside quotes and angle brackets, blanks included.
pub fn split(value: &str) -> Vec<(usize, usize)> {
    let (mut spans, mut start) = (Vec::new(), 0);
    let (mut quoted, mut bracketed) = (false, false);
    for (at, character) in value.char_indices() {
        match character {
            '"' => quoted = !quoted,
            '<' if !quoted => bracketed = true,
            '>' if !quoted => bracketed = false,
            ',' if !quoted && !bracketed => {
                spans.push((start, at));
                start = at + 1;
            }
            _ => {}
        }
    }
    spans.push((start, value.len()));
    spans
}

/// A parameter of a header value, outside angle brackets.
pub fn parameter(value: &str, name: &str) -> Option<String> {
    let outside = value.rsplit('>').next().unwrap_or(value);
    outside.split(';').skip(1).find_map(|part| {
        let (key, text) = part.split_once('=').unwrap_or((part, ""));
        key.trim().eq_ignore_ascii_case(name).then(|| text.trim().to_owned())
    })
}

/// The URI inside angle brackets, or the whole value.
pub fn uri_in(value: &str) -> &str {
    match (value.find('<'), value.find('>')) {
        (Some(from), Some(to)) if from < to => &value[from + 1..to],
        _ => value.split(';').next().unwrap_or(value).trim(),
    }
}

/// User, host and port of a SIP URI.
pub fn parts_of(uri: &str) -> (Option<&str>, String, Option<u16>) {
    let rest = uri.split_once(':').map_or(uri, |(_, rest)| rest);
    let rest = rest.split([';', '?']).next().unwrap_or(rest);
    let (user, place) = match rest.split_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, rest),
    };
    let (host, port) = match place.rfind(']') {
        Some(end) => (&place[..=end], place[end + 1..].strip_prefix(':')),
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    (user, host.to_ascii_lowercase(), port.and_then(|port| port.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_and_written_back() {
        let message = "INVITE sip:b@x SIP/2.0\r\nv: SIP/2.0/TCP a;branch=z9hG4bK1 ,\r\n \
                       SIP/2.0/TCP z\r\nX-Marker: m7.\r\nl : 4\r\n\r\nbody";
        let text = Text::parse(message).unwrap();
        assert_eq!(text.to_string(), message);
        assert_eq!(text.values("via"), ["SIP/2.0/TCP a;branch=z9hG4bK1", "SIP/2.0/TCP z"]);
        assert_eq!((text.branch().as_str(), text.marker()), ("z9hG4bK1", Some(7)));
        assert!(matches!(cut(message.as_bytes()), Cut::Whole(len) if len == message.len()));
        assert!(matches!(cut(&message.as_bytes()[..40]), Cut::More));
    }

    #[test]
    fn uris_are_taken_apart() {
        let uri = uri_in("\"x\" <sips:abc@[2001:db8::1]:5061;lr>;tag=9");
        assert_eq!(parts_of(uri), (Some("abc"), "[2001:db8::1]".to_owned(), Some(5061)));
        assert_eq!(parts_of("sip:edge.example.com"), (None, "edge.example.com".to_owned(), None));
    }
}
