//! The syntax of nginx's configuration: words, `;` and blocks. As tolerant as can be: whatever the bytes, what could be
//! understood is returned.

use std::{iter::Peekable, str::Chars};

/// The deepest nesting that is read.
const DEPTH: usize = 32;
/// The most directives of one file.
const MOST: usize = 1 << 16;

/// A directive with its block, if it has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directive {
    /// Name of the directive.
    pub name: String,
    /// The words behind the name.
    pub arguments: Vec<String>,
    /// The directives of its block; empty without one.
    pub block: Vec<Self>,
}

impl Directive {
    /// The first argument.
    #[must_use]
    pub fn argument(&self) -> Option<&str> {
        self.arguments.first().map(String::as_str)
    }
}

/// Reads the directives of a text (`ngx_conf_read_token`, src/core/ngx_conf_file.c).
#[must_use]
pub fn parse(text: &str) -> Vec<Directive> {
    let mut tokens = Tokens { chars: text.chars().peekable() };
    // The blocks that are open, from the outermost: the directive that each belongs to, and what was read of it.
    let mut open: Vec<(Directive, Vec<Directive>)> = Vec::new();
    let (mut done, mut words, mut count) = (Vec::new(), Vec::new(), 0);
    while let Some(token) = tokens.next_token() {
        match token {
            Token::Word(word) => words.push(word),
            Token::End => {
                if let Some(directive) = directive(&mut words)
                    && count < MOST
                {
                    count += 1;
                    done.push(directive);
                }
            }
            Token::Open => {
                let owner = directive(&mut words).unwrap_or_default();
                if owner.name.ends_with("_by_lua_block") {
                    tokens.skip_lua();
                } else if open.len() < DEPTH {
                    open.push((owner, std::mem::take(&mut done)));
                } else {
                    break;
                }
            }
            Token::Close => {
                words.clear();
                if let Some((owner, before)) = open.pop() {
                    let block = std::mem::replace(&mut done, before);
                    count += 1;
                    if count < MOST {
                        done.push(Directive { block, ..owner });
                    }
                }
            }
        }
    }
    // What is not closed ends with the text.
    while let Some((owner, before)) = open.pop() {
        let block = std::mem::replace(&mut done, before);
        done.push(Directive { block, ..owner });
    }
    done
}

fn directive(words: &mut Vec<String>) -> Option<Directive> {
    let mut words = std::mem::take(words).into_iter();
    Some(Directive { name: words.next()?, arguments: words.collect(), block: Vec::new() })
}

enum Token {
    Word(String),
    /// `;`
    End,
    /// `{`
    Open,
    /// `}`
    Close,
}

struct Tokens<'a> {
    chars: Peekable<Chars<'a>>,
}

impl Tokens<'_> {
    fn next_token(&mut self) -> Option<Token> {
        loop {
            match self.chars.next()? {
                c if c.is_ascii_whitespace() => {}
                '#' => self.skip_line(),
                ';' => return Some(Token::End),
                '{' => return Some(Token::Open),
                '}' => return Some(Token::Close),
                quote @ ('"' | '\'') => return Some(Token::Word(self.quoted(quote))),
                first => return Some(Token::Word(self.bare(first))),
            }
        }
    }

    fn skip_line(&mut self) {
        for c in self.chars.by_ref() {
            if c == '\n' {
                return;
            }
        }
    }

    fn quoted(&mut self, quote: char) -> String {
        let mut word = String::new();
        while let Some(c) = self.chars.next() {
            match c {
                '\\' => self.escaped(&mut word),
                c if c == quote => break,
                c => word.push(c),
            }
        }
        word
    }

    /// A word without quotes: `${name}` does not end it.
    fn bare(&mut self, first: char) -> String {
        let mut word = String::new();
        let mut next = Some(first);
        while let Some(c) = next {
            match c {
                '\\' => self.escaped(&mut word),
                c => word.push(c),
            }
            let is_variable = c == '$';
            next = self.chars.next_if(|&c| {
                let ends = c.is_ascii_whitespace() || c == ';' || c == '{' && !is_variable;
                !ends
            });
        }
        word
    }

    /// Behind a backslash. nginx knows these; in front of anything else the backslash stays.
    fn escaped(&mut self, word: &mut String) {
        match self.chars.next() {
            Some(c @ ('"' | '\'' | '\\')) => word.push(c),
            Some('t') => word.push('\t'),
            Some('r') => word.push('\r'),
            Some('n') => word.push('\n'),
            Some(c) => word.extend(['\\', c]),
            None => word.push('\\'),
        }
    }

    /// Lua up to the brace that closes its block; braces in its strings and comments do not count.
    fn skip_lua(&mut self) {
        let mut depth = 1_usize;
        while let Some(c) = self.chars.next() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                '"' | '\'' => drop(self.quoted(c)),
                '-' if self.chars.next_if_eq(&'-').is_some() => match self.long_bracket() {
                    Some(level) => self.skip_long(level),
                    None => self.skip_line(),
                },
                '[' => {
                    if let Some(level) = self.level() {
                        self.skip_long(level);
                    }
                }
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// Behind `--`: whether a long comment begins.
    fn long_bracket(&mut self) -> Option<usize> {
        self.chars.next_if_eq(&'[')?;
        self.level()
    }

    /// Behind `[`: the number of `=` of a long bracket, if it is one.
    fn level(&mut self) -> Option<usize> {
        let mut level = 0;
        while self.chars.next_if_eq(&'=').is_some() {
            level += 1;
        }
        self.chars.next_if_eq(&'[').map(|_| level)
    }

    /// To the end of a long string or comment.
    fn skip_long(&mut self, level: usize) {
        while let Some(c) = self.chars.next() {
            if c != ']' {
                continue;
            }
            let mut found = 0;
            while self.chars.next_if_eq(&'=').is_some() {
                found += 1;
            }
            if found == level && self.chars.next_if_eq(&']').is_some() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(directives: &[Directive]) -> String {
        let one = |it: &Directive| {
            let words = std::iter::once(&it.name).chain(&it.arguments).map(|word| format!("<{word}>"));
            let block = if it.block.is_empty() { String::new() } else { format!("{{{}}}", shown(&it.block)) };
            words.collect::<String>() + &block
        };
        directives.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn words_are_told_as_nginx_tells_them() {
        for (text, expected) in [
            ("a b;", "<a><b>"),
            ("a  \"b c\" 'd;e' ;", "<a><b c><d;e>"),
            ("a { b c; d{e;} }", "<a>{<b><c> <d>{<e>}}"),
            ("# no; \n a; # b {\n c;", "<a> <c>"),
            ("set $x a${b}c;", "<set><$x><a${b}c>"),
            ("a x#y;", "<a><x#y>"),
            (r#"a "x\"y" 'it\'s' z\;w q\n;"#, "<a><x\"y><it's><z\\;w><q\n>"),
            ("location ~ \"\\.php$\" {a;}", "<location><~><\\.php$>{<a>}"),
            // What is not whole.
            ("a { b;", "<a>{<b>}"),
            ("} a; }", "<a>"),
            ("a b", ""),
            ("; {} ;", "<>"),
        ] {
            assert_eq!(shown(&parse(text)), expected, "{text}");
        }
    }

    #[test]
    fn lua_is_passed_by() {
        let text = r#"
            content_by_lua_block { local t = {"}"} -- }
                --[==[ } ]] } ]==] x = [[ } ]] y = '{' t[1] = {} }
            a b;"#;
        assert_eq!(shown(&parse(text)), "<a><b>");
    }

    #[test]
    fn nesting_has_an_end() {
        let deep = parse(&"a{".repeat(100_000));
        assert_eq!(deep.len(), 1);
        assert_eq!(parse(&"a;".repeat(100_000)).len(), MOST);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[a-c \\n{};\"'\\\\#$\\[\\]=-]{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn any_characters_are_read(text in ".{0,300}") {
            let _ = parse(&text);
        }
    }
}
