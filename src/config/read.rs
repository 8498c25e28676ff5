//! Reads TOML into the types of `file`: a serde deserializer over the spanned tree that does not stop at a fault.
//! Owns the walk and the faults of shape: syntax, unknown keys, wrong types, values that do not parse. Never judges
//! what two keys mean together (`check` does).
//! Invariant: a key is `Written::Bad` only when its fault has been recorded.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    Visitor,
};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::value::Name;

/// The place of a key or a value: its bytes in the file, and its path (`listener[0].bind`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    pub span: Range<usize>,
    pub key: Arc<str>,
}

impl At {
    /// The place of what is not written at all.
    pub fn nowhere(key: &str) -> At {
        At { span: 0..0, key: key.into() }
    }

    pub fn is_somewhere(&self) -> bool {
        self.span != (0..0)
    }

    /// A key below this one, at the same place: for what is missing there.
    pub fn below(&self, key: &str) -> At {
        let key = if self.key.is_empty() { key.into() } else { format!("{}.{key}", self.key) };
        At { span: self.span.clone(), key: key.into() }
    }
}

/// A key as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Written<T> {
    #[default]
    Absent,
    /// It was there, and its fault has been recorded.
    Bad(At),
    Is(T, At),
}

impl<T> Written<T> {
    pub fn value(&self) -> Option<&T> {
        match self {
            Written::Is(value, _) => Some(value),
            _ => None,
        }
    }

    pub fn at(&self) -> Option<&At> {
        match self {
            Written::Absent => None,
            Written::Bad(at) | Written::Is(_, at) => Some(at),
        }
    }

    /// Value and place, when there is a good one.
    pub fn good(&self) -> Option<(&T, &At)> {
        match self {
            Written::Is(value, at) => Some((value, at)),
            _ => None,
        }
    }

    pub fn is_absent(&self) -> bool {
        matches!(self, Written::Absent)
    }

    /// The table that was written, or an empty one that stands nowhere.
    pub fn table(self, key: &str) -> (T, At)
    where
        T: Default,
    {
        match self {
            Written::Is(table, at) => (table, at),
            Written::Bad(at) => (T::default(), at),
            Written::Absent => (T::default(), At::nowhere(key)),
        }
    }
}

/// A list, or one value that stands for a list of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Many<T>(pub Vec<Written<T>>);

/// A table whose keys are names, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<T>(pub Vec<(Written<Name>, Written<T>)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Named(Vec::new())
    }
}

/// A fault of shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misread {
    pub at: At,
    pub why: String,
    pub cure: String,
}

/// Faults of syntax that are told: after a few the parser only stumbles over the first ones.
const SYNTAX_FAULTS_MAX: usize = 5;

/// Reads `text`; gives what could be read, and every fault of shape. What is not TOML has no keys to judge: then only
/// its faults of syntax are given, the first one of each line, and no value.
pub fn read<T: Default + for<'de> Deserialize<'de>>(text: &str) -> (Option<T>, Vec<Misread>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let mut misread: Vec<Misread> = errors.iter().map(syntax).collect();
        misread.sort_by_key(|misread| misread.at.span.start);
        let line = |misread: &Misread| text[..misread.at.span.start].matches('\n').count();
        misread.dedup_by_key(|misread| line(misread));
        misread.truncate(SYNTAX_FAULTS_MAX);
        return (None, misread);
    }
    let root = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
    let found = RefCell::default();
    let file = Written::deserialize(Node { value: &root, key: String::new(), found: &found });
    let file = match file {
        Ok(Written::Is(file, _)) => file,
        // Every key of a file is `Written`, so nothing below the root ends up here.
        _ => T::default(),
    };
    (Some(file), found.into_inner())
}

fn syntax(error: &toml::de::Error) -> Misread {
    Misread {
        at: At { span: error.span().unwrap_or(0..0), key: "".into() },
        why: format!("not TOML: {}", error.message()),
        cure: "write key = value; text in double quotes; lists in [], one bracket for each".into(),
    }
}

/// The nearest of `known` to `word`, when it is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |word: &str| word.to_lowercase().replace('_', "-");
    let word = plain(word);
    if !word.contains(char::is_alphabetic) {
        // "1.1" is near "1.3", and not meant.
        return None;
    }
    let near = |known: &str| {
        let known = plain(known);
        let slip = word.len() > 2 && strsim::damerau_levenshtein(&word, &known) == 1;
        let likeness = strsim::jaro_winkler(&word, &known);
        (slip || likeness > 0.8).then_some(likeness)
    };
    known
        .into_iter()
        .filter_map(|known| Some((near(known)?, known)))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

type Entry<'a> = (&'a Spanned<Cow<'a, str>>, &'a Spanned<DeValue<'a>>);

/// One value of the tree.
#[derive(Clone)]
struct Node<'a> {
    value: &'a Spanned<DeValue<'a>>,
    key: String,
    found: &'a RefCell<Vec<Misread>>,
}

impl<'a> Node<'a> {
    fn at(&self) -> At {
        At { span: self.value.span(), key: self.key.as_str().into() }
    }

    fn below(&self, key: &str, value: &'a Spanned<DeValue<'a>>) -> Node<'a> {
        let key = if self.key.is_empty() { key.to_owned() } else { format!("{}.{key}", self.key) };
        Node { value, key, found: self.found }
    }

    fn elements(&self) -> Vec<Node<'a>> {
        let DeValue::Array(array) = self.value.get_ref() else { return vec![self.clone()] };
        let element = |(index, value)| Node {
            value,
            key: format!("{}[{index}]", self.key),
            found: self.found,
        };
        array.iter().enumerate().map(element).collect()
    }

    fn is_array(&self) -> bool {
        matches!(self.value.get_ref(), DeValue::Array(_))
    }

    /// Entries in the order of the file; the tree keeps them in the order of the alphabet.
    fn entries(&self) -> Option<Vec<Entry<'a>>> {
        let DeValue::Table(table) = self.value.get_ref() else { return None };
        let mut entries: Vec<Entry<'a>> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        Some(entries)
    }

    fn unexpected(&self) -> Unexpected<'a> {
        match self.value.get_ref() {
            DeValue::String(text) => Unexpected::Str(text),
            DeValue::Integer(_) => Unexpected::Other("a number"),
            DeValue::Float(_) => Unexpected::Other("a number with a point"),
            DeValue::Boolean(flag) => Unexpected::Bool(*flag),
            DeValue::Datetime(_) => Unexpected::Other("a date"),
            DeValue::Array(_) => Unexpected::Seq,
            DeValue::Table(_) => Unexpected::Map,
        }
    }
}

/// Why a value could not be read. Becomes a [`Misread`] at the nearest `Written` above. Its text is the reason and,
/// after a line break, the cure: serde hands errors on as text only.
#[derive(Clone, Debug)]
pub struct Error {
    why: String,
    cure: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cure.as_str() {
            "" => f.write_str(&self.why),
            cure => write!(f, "{}\n{cure}", self.why),
        }
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    /// The first line is the reason, the second the cure.
    fn custom<T: fmt::Display>(message: T) -> Self {
        let message = message.to_string();
        let (why, cure) = message.split_once('\n').unwrap_or((&message, ""));
        Error { why: why.into(), cure: cure.into() }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = match expected.to_string().as_str() {
            "a boolean" => "true or false".to_owned(),
            "u16" => format!("a whole number from 0 to {}", u16::MAX),
            "u32" => format!("a whole number from 0 to {}", u32::MAX),
            "a sequence" => "a list".to_owned(),
            other => other.to_owned(),
        };
        let found = match found {
            Unexpected::Str(text) => format!("the text {text:?}"),
            Unexpected::Bool(flag) => format!("{flag}"),
            Unexpected::Unsigned(number) => format!("{number}"),
            Unexpected::Signed(number) => format!("{number}"),
            Unexpected::Float(number) => format!("{number}"),
            Unexpected::Seq => "a list".into(),
            Unexpected::Map => "a table".into(),
            other => other.to_string(),
        };
        let why = format!("expected {expected}, found {found}");
        Error { why, cure: format!("write {expected}") }
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        let cure = match nearest(key, known.iter().copied()) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => format!("known here: {}", known.join(", ")),
        };
        Error { why: format!("unknown key `{key}`"), cure }
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        unknown_word(word, known)
    }
}

/// The error for a word that is none of `known`.
pub fn unknown_word<E: serde::de::Error>(word: &str, known: &[&str]) -> E {
    if super::value::is_udp(word) {
        return E::custom(super::value::NO_UDP);
    }
    let list = known.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    let cure = match (nearest(word, known.iter().copied()), known.len()) {
        (Some(nearest), _) => format!("did you mean \"{nearest}\"? (one of: {list})"),
        (None, 1) => format!("write {list}: {NO_OTHER}"),
        (None, _) => format!("write one of: {list}"),
    };
    E::custom(format_args!("unknown value \"{word}\"\n{cure}"))
}

/// Of a key whose other values come with later versions.
const NO_OTHER: &str = "this version has no other";

const WRITTEN: &str = "\0written";
const MANY: &str = "\0many";

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value.get_ref() {
            DeValue::String(text) => visitor.visit_str(text),
            DeValue::Boolean(flag) => visitor.visit_bool(*flag),
            DeValue::Integer(number) => {
                let (digits, radix) = (number.as_str(), number.radix());
                match (u64::from_str_radix(digits, radix), i64::from_str_radix(digits, radix)) {
                    (Ok(number), _) => visitor.visit_u64(number),
                    (_, Ok(number)) => visitor.visit_i64(number),
                    _ => Err(serde::de::Error::custom("a number beyond 64 bits")),
                }
            }
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => visitor.visit_f64(number),
                Err(_) => Err(serde::de::Error::custom("a number that cannot be read")),
            },
            DeValue::Array(_) => visitor.visit_seq(Elements(self.elements().into_iter())),
            DeValue::Table(_) => {
                let entries = self.entries().unwrap_or_default().into_iter();
                visitor.visit_map(Entries { entries, table: self, value: None })
            }
            DeValue::Datetime(_) => {
                Err(serde::de::Error::invalid_type(self.unexpected(), &visitor))
            }
        }
    }

    /// A table: unknown keys are recorded and left out.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Some(mut entries) = self.entries() else {
            let error: Error = serde::de::Error::invalid_type(self.unexpected(), &"a table");
            let cure = match self.key.contains('[') {
                false => format!("write a heading of its own: [{}]", self.key),
                true => "write { key = value, ... }".to_owned(),
            };
            return Err(Error { cure, ..error });
        };
        entries.retain(|(key, _)| {
            let known = fields.contains(&key.get_ref().as_ref());
            if !known {
                let at = At { span: key.span(), ..self.at() }.below(key.get_ref());
                self.found.borrow_mut().push(unknown_key(at, key.get_ref(), fields));
            }
            known
        });
        visitor.visit_map(Entries { entries: entries.into_iter(), table: self, value: None })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        match name {
            WRITTEN => visitor.visit_map(Placed {
                at: Some(self.at()),
                found: self.found,
                value: Some(self),
            }),
            MANY => visitor.visit_seq(Elements(self.elements().into_iter())),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if !self.is_array() {
            let error: Error =
                serde::de::Error::invalid_type(self.unexpected(), &"a list of tables");
            let cure = format!("write the heading in double brackets: [[{}]]", self.key);
            return Err(Error { cure, ..error });
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value.get_ref() {
            DeValue::String(text) => visitor.visit_enum(StrDeserializer::new(text)),
            _ => {
                let list = words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>();
                let expected = list.join(" or ");
                let error: Error =
                    serde::de::Error::invalid_type(self.unexpected(), &expected.as_str());
                Err(match words {
                    [only] => Error { cure: format!("write \"{only}\": {NO_OTHER}"), ..error },
                    _ => error,
                })
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple
        tuple_struct map identifier ignored_any
    }
}

fn unknown_key(at: At, key: &str, known: &[&str]) -> Misread {
    let cure = if super::file::is_not_built(&at.key) {
        "this version does not have it: take the key out".to_owned()
    } else {
        match nearest(key, known.iter().copied()) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => format!("known here: {}", known.join(", ")),
        }
    };
    Misread { at, why: format!("unknown key `{key}`"), cure }
}

/// The elements of a list.
struct Elements<'a>(std::vec::IntoIter<Node<'a>>);

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        self.0.next().map(|node| seed.deserialize(node)).transpose()
    }
}

/// The entries of a table.
struct Entries<'a> {
    entries: std::vec::IntoIter<Entry<'a>>,
    table: Node<'a>,
    value: Option<Node<'a>>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        let node = self.table.below(key.get_ref(), value);
        let at = At { span: key.span(), key: node.key.as_str().into() };
        self.value = Some(node);
        seed.deserialize(Key { text: key.get_ref(), at, found: self.table.found }).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let node =
            self.value.take().ok_or_else(|| serde::de::Error::custom("a value before its key"))?;
        seed.deserialize(node)
    }
}

/// The name of an entry.
struct Key<'a> {
    text: &'a str,
    at: At,
    found: &'a RefCell<Vec<Misread>>,
}

impl<'de> Deserializer<'de> for Key<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(self.text)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        match name {
            WRITTEN => visitor.visit_map(Placed {
                value: Some(StrDeserializer::new(self.text)),
                at: Some(self.at),
                found: self.found,
            }),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// A value with its place, told to [`WrittenVisitor`] as a map of one entry: the place as `start end path`, the value.
struct Placed<'a, D> {
    at: Option<At>,
    value: Option<D>,
    found: &'a RefCell<Vec<Misread>>,
}

impl<'de, D: Deserializer<'de, Error = Error>> MapAccess<'de> for Placed<'_, D> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some(At { span, key }) = &self.at else { return Ok(None) };
        let place = format!("{} {} {key}", span.start, span.end);
        seed.deserialize(place.into_deserializer()).map(Some)
    }

    /// An error ends here: it is recorded, and the visitor makes `Written::Bad` of it.
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (Some(value), Some(at)) = (self.value.take(), self.at.take()) else {
            return Err(serde::de::Error::custom("asked for twice"));
        };
        seed.deserialize(value).inspect_err(|error| {
            let Error { why, cure } = error.clone();
            self.found.borrow_mut().push(Misread { at, why, cure });
        })
    }
}

struct WrittenVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for WrittenVisitor<T> {
    type Value = Written<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value with its place")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Written<T>, A::Error> {
        let place: Option<String> = map.next_key()?;
        let at = place.as_deref().and_then(|place| {
            let mut words = place.splitn(3, ' ');
            let start = words.next()?.parse().ok()?;
            let end = words.next()?.parse().ok()?;
            Some(At { span: start..end, key: words.next()?.into() })
        });
        let at = at.ok_or_else(|| serde::de::Error::custom("a value without a place"))?;
        Ok(match map.next_value() {
            Ok(value) => Written::Is(value, at),
            Err(_) => Written::Bad(at),
        })
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(WRITTEN, WrittenVisitor(PhantomData))
    }
}

struct ManyVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ManyVisitor<T> {
    type Value = Many<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Many<T>, A::Error> {
        let mut many = Vec::new();
        while let Some(element) = elements.next_element()? {
            many.push(element);
        }
        Ok(Many(many))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Many<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(MANY, ManyVisitor(PhantomData))
    }
}

struct NamedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for NamedVisitor<T> {
    type Value = Named<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table with a name, such as [zone.edge]")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
        let mut named = Vec::new();
        while let Some(entry) = map.next_entry()? {
            named.push(entry);
        }
        Ok(Named(named))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamedVisitor(PhantomData))
    }
}
