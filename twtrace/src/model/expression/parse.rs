//! From a text to an expression.

use std::{fmt, net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;
use jiff::SignedDuration;
use twtrace_common::COMM_LEN;

use super::{Comparison, Expression, Noun, Primitive, Side};
use crate::model::event::{Cause, Kind, Role, Substate};

/// The words that a condition may begin with.
const WORDS: [&str; 20] = [
    "src",
    "dst",
    "host",
    "net",
    "port",
    "portrange",
    "ip",
    "ip6",
    "event",
    "state",
    "cause",
    "role",
    "pid",
    "comm",
    "netns",
    "cgroup",
    "cgroup-tree",
    "container",
    "unit",
    "life",
];
/// How deep parentheses and `not` may lie in each other: more than anybody writes, and less than a stack holds.
const DEPTH: usize = 100;

/// What is wrong with an expression, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misread {
    text: String,
    /// Where the wrong word begins, bytes.
    at: usize,
    why: String,
}

impl Misread {
    /// What is wrong.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// The wrong word; `None`: one is missing at the end.
    #[must_use]
    pub fn word(&self) -> Option<&str> {
        self.text.get(self.at..)?.split_whitespace().next()
    }

    /// What stands before it.
    #[must_use]
    pub fn before(&self) -> &str {
        self.text.get(..self.at).unwrap_or_default().trim()
    }
}

impl std::error::Error for Misread {}

impl fmt::Display for Misread {
    /// Where first: a line that is too long for a screen loses its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.word() {
            Some(word) if !self.before().is_empty() => {
                write!(f, "at '{word}' after '{}': {}", self.before(), self.why)
            }
            Some(word) => write!(f, "at '{word}': {}", self.why),
            None => write!(f, "at the end: {}", self.why),
        }
    }
}

/// A word, a sign or a parenthesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token<'a> {
    text: &'a str,
    at: usize,
    /// In quotation marks: a name, whatever it says.
    quoted: bool,
}

/// Signs that stand for themselves, wherever they stand.
const SIGNS: [&str; 10] = ["&&", "||", "<=", ">=", "(", ")", "!", "<", ">", "="];

fn tokens(text: &str) -> Result<Vec<Token<'_>>, Misread> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) {
        let rest = text.get(at..).unwrap_or_default();
        if c.is_whitespace() {
            at += c.len_utf8();
        } else if c == '"' {
            let inner = rest.get(1..).unwrap_or_default();
            let Some(end) = inner.find('"') else {
                return Err(Misread { text: text.to_owned(), at, why: "a name without its closing \"".to_owned() });
            };
            found.push(Token { text: inner.get(..end).unwrap_or_default(), at, quoted: true });
            at += end + 2;
        } else if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            found.push(Token { text: sign, at, quoted: false });
            at += sign.len();
        } else {
            let ends = |(place, c): (usize, char)| {
                let is_sign = SIGNS.iter().any(|sign| rest.get(place..).is_some_and(|rest| rest.starts_with(sign)));
                (c.is_whitespace() || c == '"' || is_sign).then_some(place)
            };
            let end = rest.char_indices().find_map(ends).unwrap_or(rest.len());
            found.push(Token { text: rest.get(..end).unwrap_or_default(), at, quoted: false });
            at += end;
        }
    }
    Ok(found)
}

/// Reads an expression: see [`Expression::read`].
pub(super) fn read(text: &str) -> Result<Expression, Misread> {
    let mut parser = Parser { text, tokens: tokens(text)?, next: 0, before: None, depth: 0 };
    let expression = parser.any()?;
    match parser.peek() {
        None => Ok(expression),
        Some(_) => Err(parser.wrong("a word too many; join conditions by and, or")),
    }
}

/// What a condition without its first words goes on with: `port 80 or 443`.
#[derive(Clone, Copy)]
struct Before<'a> {
    side: Side,
    word: &'a str,
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token<'a>>,
    next: usize,
    before: Option<Before<'a>>,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.next).copied()
    }

    /// Takes the next token if it is one of these.
    fn takes(&mut self, words: &[&str]) -> bool {
        let found = self.peek().is_some_and(|token| !token.quoted && words.contains(&token.text));
        self.next += usize::from(found);
        found
    }

    /// About the next token.
    fn wrong(&self, why: impl Into<String>) -> Misread {
        let at = self.peek().map_or(self.text.len(), |token| token.at);
        Misread { text: self.text.to_owned(), at, why: why.into() }
    }

    fn any(&mut self) -> Result<Expression, Misread> {
        let mut parts = vec![self.all()?];
        while self.takes(&["or", "||"]) {
            parts.push(self.all()?);
        }
        Ok(one_or(parts, Expression::Any))
    }

    fn all(&mut self) -> Result<Expression, Misread> {
        let mut parts = vec![self.not()?];
        while self.takes(&["and", "&&"]) {
            parts.push(self.not()?);
        }
        Ok(one_or(parts, Expression::All))
    }

    fn not(&mut self) -> Result<Expression, Misread> {
        if self.depth >= DEPTH {
            return Err(self.wrong(format!("more than {DEPTH} parentheses and nots in each other")));
        }
        self.depth += 1;
        let inner = if self.takes(&["not", "!"]) {
            self.not().map(|inner| Expression::Not(Box::new(inner)))
        } else if self.takes(&["("]) {
            self.any().and_then(|inner| if self.takes(&[")"]) { Ok(inner) } else { Err(self.wrong("expected )")) })
        } else {
            self.primitive().map(Expression::Is)
        };
        self.depth -= 1;
        inner
    }

    fn primitive(&mut self) -> Result<Primitive, Misread> {
        let side = if self.takes(&["src"]) {
            Side::Src
        } else if self.takes(&["dst"]) {
            Side::Dst
        } else {
            Side::Either
        };
        let Some(token) = self.peek() else { return Err(self.wrong("a condition is missing")) };
        let is_word = !token.quoted && WORDS.contains(&token.text);
        let before = match self.before {
            _ if is_word => {
                self.next += 1;
                Before { side, word: token.text }
            }
            // `dst 10.0.0.1`: what it is shows by itself.
            _ if side != Side::Either && token.text.parse::<IpAddr>().is_ok() => Before { side, word: "host" },
            _ if side != Side::Either && token.text.contains('/') => Before { side, word: "net" },
            Some(before) if side == Side::Either => before,
            _ if side != Side::Either => return Err(self.wrong("expected host, net, port or portrange")),
            _ => return Err(self.wrong(format!("not one of {} not (", WORDS.join(" ")))),
        };
        self.before = Some(before);
        let has_side = matches!(before.word, "host" | "net" | "port" | "portrange");
        if before.side != Side::Either && !has_side {
            return Err(self.wrong("src and dst go before host, net, port and portrange"));
        }
        self.condition(before)
    }

    fn condition(&mut self, Before { side, word }: Before<'a>) -> Result<Primitive, Misread> {
        Ok(match word {
            "ip" => Primitive::Family(4),
            "ip6" => Primitive::Family(6),
            "host" => Primitive::Host(side, self.value("an address, e.g. host 10.0.0.1", address)?),
            "net" => Primitive::Net(side, self.value("a block, e.g. net 10.0.0.0/8", net)?),
            "port" => {
                let port: u16 = self.value("a port, e.g. port 443", |text| text.parse().ok())?;
                Primitive::Port(side, port..=port)
            }
            "portrange" => Primitive::Port(side, self.value("two ports, e.g. portrange 8000-8100", ports)?),
            "event" => Primitive::Event(self.one_of(Kind::ALL, Kind::word)?),
            "state" => Primitive::State(self.one_of(Substate::ALL, Substate::word)?),
            "cause" => Primitive::Cause(self.one_of(&causes(), Cause::word)?),
            "role" => Primitive::Role(self.one_of(Role::ALL, Role::word)?),
            "pid" => Primitive::Pid(self.value("a process id, e.g. pid 4711", |text| text.parse().ok())?),
            "comm" => {
                let fits = |text: &str| (1..COMM_LEN).contains(&text.len()).then(|| text.to_owned());
                Primitive::Comm(self.value("a thread's name of 1 to 15 bytes, e.g. comm nginx", fits)?)
            }
            "netns" => self.value("self, an inode number, or a file, e.g. netns /run/netns/blue", netns)?,
            "cgroup" => self.named(Noun::Cgroup, "a directory, e.g. cgroup system.slice/nginx.service")?,
            "cgroup-tree" => self.named(Noun::CgroupTree, "a directory, e.g. cgroup-tree system.slice")?,
            "container" => self.named(Noun::Container, "a name, e.g. container web")?,
            "unit" => self.named(Noun::Unit, "a name, e.g. unit nginx.service")?,
            _ => {
                let comparison = Comparison::ALL.into_iter().find(|(_, sign)| self.takes(&[*sign]));
                let Some((comparison, _)) = comparison else {
                    return Err(self.wrong("expected a comparison, e.g. life > 5s"));
                };
                Primitive::Life(comparison, self.value("a length of time, e.g. life > 5s", nanoseconds)?)
            }
        })
    }

    /// The next token as a value.
    fn value<T>(&mut self, expected: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, Misread> {
        let is_sign = |token: &Token<'_>| !token.quoted && SIGNS.contains(&token.text);
        let value = self.peek().filter(|token| !is_sign(token)).and_then(|token| read(token.text));
        let Some(value) = value else { return Err(self.wrong(format!("expected {expected}"))) };
        self.next += 1;
        Ok(value)
    }

    fn named(&mut self, noun: Noun, expected: &str) -> Result<Primitive, Misread> {
        let name = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Ok(Primitive::Named(noun, self.value(expected, name)?))
    }

    fn one_of<T: Copy>(&mut self, all: &[T], word: fn(T) -> &'static str) -> Result<T, Misread> {
        let words: Vec<_> = all.iter().map(|value| word(*value)).collect();
        self.value(&words.join(", "), |text| all.iter().copied().find(|value| word(*value) == text))
    }
}

fn one_or(mut parts: Vec<Expression>, many: fn(Vec<Expression>) -> Expression) -> Expression {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => {
            parts.extend(last);
            many(parts)
        }
    }
}

/// Every cause, and what could not be told.
fn causes() -> Vec<Cause> {
    Cause::ALL.iter().copied().chain([Cause::from_raw(0)]).collect()
}

/// v4-mapped addresses are IPv4, as those of events are.
fn address(text: &str) -> Option<IpAddr> {
    Some(text.parse::<IpAddr>().ok()?.to_canonical())
}

fn net(text: &str) -> Option<IpNet> {
    Some(text.parse::<IpNet>().ok()?.trunc())
}

/// Digits alone are an inode number.
fn netns(text: &str) -> Option<Primitive> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().filter(|inum| *inum > 0).map(Primitive::Netns);
    }
    Some(Primitive::Named(Noun::Netns, text.to_owned()))
}

fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (from, to) = text.split_once('-')?;
    let (from, to): (u16, u16) = (from.parse().ok()?, to.parse().ok()?);
    (from <= to).then_some(from..=to)
}

/// A number without a unit is seconds, as everywhere on the command line.
fn nanoseconds(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse::<u64>().ok()?.checked_mul(1_000_000_000);
    }
    u64::try_from(text.parse::<SignedDuration>().ok()?.as_nanos()).ok()
}
