//! The structure of the sources, held to what ARCHITECTURE.md says of it: which room may import which, and how long a file
//! may be.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what cannot be read fails the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{Attribute, Item, ItemUse, UseTree, visit::Visit};

/// Lines that a file may have.
const LINES: usize = 400;
/// Where the table of rooms begins in ARCHITECTURE.md.
const TABLE: &str = "| room | may import |";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every Rust file below a directory.
fn sources(at: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("target") {
                found.extend(sources(&path));
            }
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What a file names of its own crate: paths below it, `crate` left out.
#[derive(Default)]
struct Named(BTreeSet<Vec<String>>);

impl Named {
    fn of(text: &str) -> Self {
        let mut named = Self::default();
        named.visit_file(&syn::parse_file(text).unwrap());
        named
    }

    fn tree(&mut self, tree: &UseTree, mut path: Vec<String>) {
        match tree {
            UseTree::Path(part) => {
                path.push(part.ident.to_string());
                self.tree(&part.tree, path);
            }
            UseTree::Name(part) => self.path(path, part.ident.to_string()),
            UseTree::Rename(part) => self.path(path, part.ident.to_string()),
            UseTree::Glob(_) => self.path(path, "*".to_owned()),
            UseTree::Group(group) => group.items.iter().for_each(|part| self.tree(part, path.clone())),
        }
    }

    fn path(&mut self, mut path: Vec<String>, last: String) {
        path.push(last);
        if path[0] == "crate" && path.len() > 1 {
            self.0.insert(path.split_off(1));
        }
    }
}

/// True of what is there for tests alone.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|condition| condition == "test")
    })
}

impl<'ast> Visit<'ast> for Named {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes: &[Attribute] = match item {
            Item::Mod(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            _ => &[],
        };
        if !is_for_tests(attributes) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.tree(&item.tree, Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        if parts[0] == "crate" && parts.len() > 1 {
            self.0.insert(parts[1..].to_vec());
        }
        syn::visit::visit_path(self, path);
    }
}

/// The room of a file, and its path below the sources.
fn room_of(file: &Path, sources: &Path) -> (String, String) {
    let below = file.strip_prefix(sources).unwrap().to_string_lossy().into_owned();
    let room = below.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
    (room, below)
}

/// Each arrow between rooms with the places where it is drawn.
fn arrows() -> BTreeMap<(String, String), Vec<String>> {
    let sources_of = root().join("twtrace/src");
    let all = sources(&sources_of);
    let rooms: BTreeSet<String> = all.iter().map(|file| room_of(file, &sources_of).0).collect();
    let mut arrows: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for file in &all {
        let (room, below) = room_of(file, &sources_of);
        let is_test = below.ends_with("/tests.rs") || below.contains("/tests/") || below.contains("/fixture");
        if room == "main" || room == "lib" || is_test {
            continue;
        }
        for path in Named::of(&fs::read_to_string(file).unwrap()).0 {
            if path[0] != room && rooms.contains(&path[0]) {
                let place = format!("{below} uses {}", path.join("::"));
                arrows.entry((room.clone(), path[0].clone())).or_default().push(place);
            }
        }
    }
    arrows
}

/// What stands between backquotes.
fn words(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(|word| word.trim_end_matches('/').to_owned()).collect()
}

/// The table of ARCHITECTURE.md: what each room may import.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rows = text.lines().skip_while(|line| *line != TABLE).skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [room, imports] = cells.as_slice() else { panic!("a row with other columns: {row}") };
        (words(room).remove(0), words(imports).into_iter().collect())
    })
    .collect()
}

/// Where a thing belongs that two rooms need, one of which may not import the other.
const ADVICE: &str = "what both need goes down: facts and words to model/, what is shown to show/, traffic to traffic/; or the \
                      one that knows more hands it over. If the arrow is right, write it into ARCHITECTURE.md";

#[test]
fn no_room_imports_what_the_table_does_not_give_it() {
    let table = table();
    let mut wrong = Vec::new();
    for ((from, to), places) in arrows() {
        let Some(may) = table.get(&from) else { panic!("{from} has no row under '{TABLE}' in ARCHITECTURE.md") };
        if !may.contains(&to) {
            wrong.push(format!("{}: {from} may not import {to}; {ADVICE}", places.join(", ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A table that gave leave in a circle would hold nobody to anything.
#[test]
fn the_table_has_no_circle_and_nothing_that_nobody_uses() {
    let mut table = table();
    let arrows = arrows();
    for (from, imports) in &table {
        for to in imports {
            assert!(
                arrows.contains_key(&(from.clone(), to.clone())),
                "{from} does not import {to}: take it out of the table"
            );
        }
    }
    // Rooms that import none that is left can be taken away, one after the other.
    while !table.is_empty() {
        let free: Vec<String> = table
            .iter()
            .filter(|(_, imports)| imports.iter().all(|to| !table.contains_key(to)))
            .map(|(room, _)| room.clone())
            .collect();
        assert!(!free.is_empty(), "these rooms hang together in a circle: {table:?}");
        free.iter().for_each(|room| drop(table.remove(room)));
    }
}

#[test]
fn no_file_is_too_long_to_read() {
    let mut long = Vec::new();
    for member in ["twtrace", "twtrace-common", "twtrace-ebpf", "xtask"] {
        for file in sources(&root().join(member)) {
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            if lines > LINES {
                long.push(format!("{} has {lines} lines: split it by what it is about", file.display()));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// Words that stand for something said before: nothing is, before a first sentence.
const HANGING: [&str; 9] = ["It", "Its", "They", "Their", "Those", "These", "One that", "As above", "The same"];

#[test]
fn first_sentences_stand_alone() {
    let mut hanging = Vec::new();
    for member in ["twtrace", "twtrace-common", "twtrace-ebpf", "xtask"] {
        for file in sources(&root().join(member)) {
            let text = fs::read_to_string(&file).unwrap();
            let comment = |line: &str| line.trim_start().strip_prefix("///").map(|said| said.trim_start().to_owned());
            for (number, pair) in [""].into_iter().chain(text.lines()).zip(text.lines()).enumerate() {
                let (before, Some(said)) = (comment(pair.0), comment(pair.1)) else { continue };
                let hangs =
                    |word: &&str| said.strip_prefix(*word).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric));
                if before.is_none() && HANGING.iter().any(hangs) {
                    hanging.push(format!("{}:{}: {said}", file.display(), number + 1));
                }
            }
        }
    }
    assert!(hanging.is_empty(), "say what it is about, for nothing stands before it:\n{}", hanging.join("\n"));
}

/// The test itself sees an arrow in each of the ways in which one can be drawn, and none where there is none.
#[test]
fn arrows_are_found_however_they_are_drawn() {
    let text = "use crate::{model::event::{self, Event}, sink as out};\n\
                use std::io;\n\
                fn f() -> crate::host::Host { crate::plan::choose(io::stdin()) }\n\
                #[cfg(test)] mod tests { use crate::lab::judge; }\n\
                #[cfg(test)] use crate::tui;\n";
    let rooms: BTreeSet<String> = Named::of(text).0.into_iter().map(|path| path[0].clone()).collect();
    assert_eq!(rooms, ["host", "model", "plan", "sink"].map(str::to_owned).into());
}
