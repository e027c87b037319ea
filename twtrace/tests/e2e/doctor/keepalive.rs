//! What keepalive would save: short connections, as long as they come.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use twtrace::lab::lives::{self, Pair};

use super::{Outcome, Said, address, new, until};

/// Found while they come, and not any more when they have ended, though their TIME_WAITs are still there.
pub fn doctor_keepalive() -> Outcome {
    let netns = new()?;
    Said::of(&netns, &[])?.finds("keepalive.enough", "fine")?;
    let is_over = AtomicBool::new(false);
    let found = thread::scope(|scope| {
        let closing = scope.spawn(|| {
            netns.run(|| {
                let listener = lives::listen(address("127.0.0.1:8000")?)?;
                while !is_over.load(Ordering::Relaxed) {
                    let Pair { client, server } = lives::connect(&listener, None)?;
                    lives::close_in_order(client, server)?;
                    thread::sleep(Duration::from_millis(2));
                }
                Ok(())
            })
        });
        thread::sleep(Duration::from_millis(500));
        let said = Said::of(&netns, &[]);
        is_over.store(true, Ordering::Relaxed);
        closing.join().map_err(|_| "the closing thread panicked")?.map_err(|error| error.to_string())?;
        let said = said?;
        // As a note or, with enough of them, as a warning.
        let finding = said.finds("keepalive.short-connections", "warning");
        let finding = finding.or_else(|_| said.finds("keepalive.short-connections", "note"))?;
        finding.shows("closed first by", "the client")?;
        let rate = finding.evidence("TIME_WAITs begun")?.as_f64();
        if rate.is_some_and(|rate| rate >= 10.0) { Ok(()) } else { Err(format!("{rate:?} per second")) }
    });
    found?;
    until("end of the short connections", || Ok(Said::of(&netns, &[])?.finds("keepalive.enough", "fine").is_ok()))?;
    let said = Said::of(&netns, &[])?;
    match said.finds("cost.harmless", "fine")?.evidence("TIME_WAIT")?.as_u64() {
        Some(left) if left > 0 => Ok(()),
        left => Err(format!("{left:?} TIME_WAITs are left")),
    }
}
