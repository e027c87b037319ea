use std::{
    io::{PipeReader, Read as _},
    os::fd::OwnedFd,
    thread,
};

use super::*;

/// Remarks into a real pipe, and who does not read it.
fn unread() -> io::Result<(PipeReader, Remarks)> {
    let (reader, pipe) = io::pipe()?;
    Ok((reader, Remarks::spawn(Descriptor::new(File::from(OwnedFd::from(pipe))))?))
}

/// A remark of a hundred bytes.
fn line(number: u64) -> String {
    format!("twtrace: {number:090}\n")
}

/// Reads on until this comes.
fn read_to(reader: &mut PipeReader, wanted: &str) -> io::Result<String> {
    let (mut text, mut page) = (String::new(), [0; 4096]);
    while !text.contains(wanted) {
        let count = reader.read(&mut page)?;
        text.push_str(&String::from_utf8_lossy(&page[..count]));
    }
    Ok(text)
}

/// The numbers of the lines, and what the notices tell.
fn sorted(text: &str) -> (Vec<u64>, Vec<u64>) {
    let (notices, lines): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.contains("too slowly"));
    let number = |line: &str| line.split(' ').find_map(|word| word.parse().ok());
    (lines.into_iter().filter_map(number).collect(), notices.into_iter().filter_map(number).collect())
}

/// Ten minutes of a hundred remarks a second.
#[test]
fn a_reader_that_stops_holds_nobody_up_and_takes_no_memory() -> io::Result<()> {
    const ALL: u64 = 60_000;
    let (mut reader, mut remarks) = unread()?;
    (0..ALL).for_each(|number| remarks.say(&line(number)));
    let tally = remarks.writer.tally();
    let kept = tally.lines_in - tally.dropped;
    // The queue, what the thread has in hand, and the pipe of 64 KiB: lines of a hundred bytes.
    assert!(kept * 100 <= (MOST_BYTES + (64 << 10)) as u64, "{tally:?}");
    assert!(tally.dropped > 0);
    // Somebody reads on: the next that can say something says what is missing.
    let mut text = String::new();
    while remarks.told < remarks.writer.tally().dropped {
        text.push_str(&read_to(&mut reader, "\n")?);
        remarks.say("");
    }
    let rest = thread::spawn(move || -> io::Result<String> {
        let mut rest = String::new();
        reader.read_to_string(&mut rest)?;
        Ok(rest)
    });
    while !remarks.writer.is_idle() {
        thread::yield_now();
    }
    remarks.say(&line(ALL));
    let missing = remarks.told;
    remarks.parting.push_str("the summary\n");
    remarks.finish("the end\n");
    text.push_str(&rest.join().unwrap()?);
    let (numbers, notices) = sorted(&text);
    assert_eq!((notices.last(), numbers.len() as u64 + missing), (Some(&missing), ALL + 1), "{tally:?}");
    assert!(numbers.is_sorted() && numbers.last() == Some(&ALL));
    assert!(text.ends_with("the summary\nthe end\n"), "{:?}", text.lines().last());
    Ok(())
}

#[test]
fn the_end_is_said_though_nobody_reads() -> io::Result<()> {
    let (mut reader, mut remarks) = unread()?;
    (0..700).for_each(|number| remarks.say(&line(number)));
    // Until the pipe is full: 15 pages of 40 lines, and at least one line on the last page.
    while rustix::io::ioctl_fionread(&reader)? < 60_000 {
        thread::yield_now();
    }
    (700..2000).for_each(|number| remarks.say(&line(number)));
    remarks.parting.push_str("the summary\n");
    // As after GRACE without a byte read, which a test does not wait for.
    remarks.writer.give_up();
    remarks.finish("the end\n");
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    let (numbers, notices) = sorted(&text);
    assert_eq!(notices, vec![2000 - numbers.len() as u64]);
    assert!(numbers.len() > 100 && text.ends_with("so far\nthe summary\nthe end\n"), "{:?}", text.lines().last());
    Ok(())
}

#[test]
fn who_has_gone_is_not_waited_for() -> io::Result<()> {
    let (reader, mut remarks) = unread()?;
    drop(reader);
    (0..5000).for_each(|number| remarks.say(&line(number)));
    remarks.finish("the end\n");
    Ok(())
}

#[test]
fn all_of_it_comes_in_order_to_a_reader_that_reads() -> io::Result<()> {
    let (mut reader, mut remarks) = unread()?;
    let rest = thread::spawn(move || -> io::Result<String> {
        let mut rest = String::new();
        reader.read_to_string(&mut rest)?;
        Ok(rest)
    });
    (0..500).for_each(|number| remarks.say(&line(number)));
    remarks.finish("");
    assert_eq!(sorted(&rest.join().unwrap()?), ((0..500).collect(), vec![]));
    Ok(())
}
