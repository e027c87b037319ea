//! Help, errors, and what a good command line becomes.

use std::{io, path::Path, time::Duration};

use insta::assert_snapshot;
use twtrace::cli::{
    self, Backend, Cli, Command, EbpfLog, RunFormat,
    exit::{Code, Exit},
    parse,
};
use twtrace::{
    doctor::checks,
    filter::{
        resolve::{Place, Resolver},
        spec::{FilterSpec, NetnsSpec},
        wrong::Wrong,
    },
    model::expression::Expression,
    sink::by::Group,
};

fn run(words: &[&str]) -> cli::Run {
    match parse(["twtrace", "run"].iter().chain(words)).map(|cli| cli.command) {
        Ok(Command::Run(run)) => *run,
        other => unreachable!("{words:?}: {other:?}"),
    }
}

/// The help as on a terminal of 100 columns, whatever this one has.
fn help(words: &[&str]) -> String {
    match cli::command().term_width(100).try_get_matches_from(words) {
        Ok(_) => unreachable!("{words:?} is a command, not a question"),
        Err(help) => help.render().to_string(),
    }
}

#[test]
fn helps() {
    assert_snapshot!("help", help(&["twtrace", "--help"]));
    assert_snapshot!("help_run", help(&["twtrace", "run", "--help"]));
    assert_snapshot!("help_run_short", help(&["twtrace", "run", "-h"]));
    assert_snapshot!("help_probe", help(&["twtrace", "probe", "--help"]));
    assert_snapshot!("help_doctor", help(&["twtrace", "doctor", "--help"]));
    assert_snapshot!("help_lab", help(&["twtrace", "lab", "--help"]));
    assert_snapshot!("help_doctor", help(&["twtrace", "doctor", "--help"]));
}

#[test]
fn help_and_version_are_answers() {
    for words in [&["twtrace", "--help"][..], &["twtrace", "run", "-h"], &["twtrace", "--version"], &["twtrace", "-V"]]
    {
        match parse(words) {
            Err(Exit { code: Code::Success, stdout, stderr }) if stderr.is_empty() => {
                assert!(stdout.contains("twtrace"), "{stdout}");
            }
            other => unreachable!("{words:?}: {other:?}"),
        }
    }
    assert_eq!(parse(["twtrace", "-V"]), Err(Exit::answer(format!("twtrace {}\n", env!("CARGO_PKG_VERSION")))));
}

#[test]
fn without_options() {
    assert_eq!(
        run(&[]),
        cli::Run {
            format: None,
            also: Vec::new(),
            by: vec![],
            summary_every: None,
            top: 20,
            ascii: false,
            self_stats: false,
            duration: None,
            drain_for: Duration::from_secs(10),
            interval: Duration::from_secs(1),
            hooks: cli::Hooks { backend: Backend::Auto, btf: None },
            demo: false,
            ebpf_log: EbpfLog::Off,
            ring_size: 4 << 20,
            max_lives: None,
            max_conns: None,
            filter: FilterSpec::default(),
            expression: Expression::everything(),
        }
    );
}

#[test]
fn with_options() {
    let words = "--format json --duration 1h30m --interval 100ms --backend kprobe --btf /tmp/b --demo --ebpf-log warn \
                 --ring-size 512K --max-lives 1M --max-conns 16M";
    let run = run(&words.split_whitespace().collect::<Vec<_>>());
    assert_eq!(
        (run.format, run.duration, run.interval),
        (
            Some(RunFormat::Lines(&twtrace::sink::json::FORMAT)),
            Some(Duration::from_secs(5400)),
            Duration::from_millis(100)
        )
    );
    assert_eq!((run.hooks.backend, run.hooks.btf.as_deref()), (Backend::Kprobe, Some(Path::new("/tmp/b"))));
    assert_eq!((run.demo, run.ebpf_log, run.ring_size), (true, EbpfLog::Warn, 512 << 10));
    assert_eq!((run.max_lives, run.max_conns), (Some(1 << 20), Some(16 << 20)));
    assert_eq!(run.hooks.backend.forced(), Some("kprobe"));
    assert_eq!(run.ebpf_log.level(), log::LevelFilter::Warn);
}

#[test]
fn tables_are_asked_for() {
    let tables = |words: &str| {
        let run = run(&words.split_whitespace().collect::<Vec<_>>());
        (run.by, run.summary_every)
    };
    assert_eq!(tables("--by port,owner"), (vec![Group::Port, Group::Owner], None));
    assert_eq!(tables("--by dest --by port"), (vec![Group::Destination, Group::Port], None));
    assert_eq!(tables("--summary-every 2s"), (Group::ALL.to_vec(), Some(Duration::from_secs(2))));
    assert_eq!(tables(""), (vec![], None));
}

#[test]
fn other_names_and_short_options() {
    let notes = |words: &str| {
        let cli = parse(["twtrace"].into_iter().chain(words.split_whitespace()));
        cli.map(|cli| cli.notes).unwrap_or_else(|exit| vec![exit.stderr])
    };
    let short = run(&["-d", "10s", "-i", "500ms", "-j"]);
    assert_eq!((short.duration, short.interval), (Some(Duration::from_secs(10)), Duration::from_millis(500)));
    assert_eq!(short.format, Some(RunFormat::Lines(&twtrace::sink::json::FORMAT)));
    assert_eq!(run(&["-d", "10", "-i", "2", "--json"]), run(&["--duration=10s", "--interval=2s", "--format=json"]));
    for words in ["probe", "doctor --format json", "lab --list", "run --duration 10s --lport 80"] {
        assert_eq!(notes(words), Vec::<String>::new(), "{words}");
    }
    assert_snapshot!(
        ["run -d 10", "run --json --dport 443 --sport=80", "doctor --json --watch 5", "run -d 10s -L 80"]
            .map(|words| format!("$ twtrace {words}\n{}\n", notes(words).join("\n")))
            .join("\n"),
        @r"
    $ twtrace run -d 10
    read as: twtrace run --duration 10s

    $ twtrace run --json --dport 443 --sport=80
    read as: twtrace run --format json --rport 443 --lport=80

    $ twtrace doctor --json --watch 5
    read as: twtrace doctor --format json --watch 5s

    $ twtrace run -d 10s -L 80
    read as: twtrace run --duration 10s --lport 80
    "
    );
    let doctor = |words: &[&str]| match parse(["twtrace", "doctor"].iter().chain(words)).map(|cli| cli.command) {
        Ok(Command::Doctor(doctor)) => doctor.netns,
        other => unreachable!("{words:?}: {other:?}"),
    };
    assert_eq!(doctor(&["-p", "1"]), Some(NetnsSpec::Pid(1)));
    assert_eq!(doctor(&["--container", "web"]), Some(NetnsSpec::Container("web".to_owned())));
    assert_eq!(doctor(&["--unit", "nginx.service"]), Some(NetnsSpec::Unit("nginx.service".to_owned())));
}

#[test]
fn verbose_stands_anywhere() {
    for (words, verbose) in [("-v probe", 1), ("probe -v", 1), ("probe -vv", 2), ("probe", 0)] {
        let cli = parse(["twtrace"].into_iter().chain(words.split_whitespace()));
        assert!(
            matches!(cli, Ok(Cli { verbose: v, command: Command::Probe(_), .. }) if v == verbose),
            "{words}: {cli:?}"
        );
    }
}

/// Each wrong line of the command and what is said about it. The separator is a blank: `_` stands for one in a word.
#[test]
fn complaints() {
    let wrong = [
        "",
        "runn",
        "trace",
        "top",
        "ps",
        "check",
        "80",
        "--json",
        "--port 80 --comm nginx",
        "-p 80",
        "help wibble",
        "run help",
        "run 1 10",
        "run 80",
        "run port",
        "run dst port 443 nginx",
        "run tcp port 80",
        "run nginx",
        "run 10.0.0.1",
        "run -port 80",
        "run -n",
        "run -o json",
        "run --daddr 10.0.0.1",
        "run --pod web",
        "run --watch 5s",
        "run --json --format text",
        "run -p http",
        "run --container=",
        "run --unit a,b,c,d,e,f,g,h,i",
        "doctor 4711",
        "doctor web",
        "doctor ports.exhausted",
        "doctor --port 80",
        "doctor --interval 5s",
        "doctor --fix",
        "doctor --pid 1 --netns self",
        "doctor --pid 1,2",
        "doctor --container web --unit nginx",
        "doctor --pid self",
        "lab -j 4",
        "lab reuse",
        "run extra",
        "run --prot 80",
        "run --wibble",
        "--wibble",
        "run --port",
        "run --format",
        "run --format html",
        "run --format tui --by port",
        "run --by nothing",
        "run --top 0",
        "run --format text --format json",
        "run --demo=yes",
        "run --backend ebpf",
        "probe --backend ebpf",
        "run --ebpf-log loud",
        "lab --scenario reuse,wibble",
        "lab --jobs 0",
        "lab --connections 10",
        "run --duration soon",
        "run --duration 0",
        "run --duration 0s",
        "run --duration 99999999999999999999",
        "run -d soon",
        "run -i eth0",
        "run --duration=-5s",
        "run --duration 1y",
        "run --interval 1ms",
        "run --interval 2h",
        "run --ring-size 3M",
        "run --ring-size 2K",
        "run --ring-size 2G",
        "run --ring-size big",
        "run --ring-size 4MB",
        "run --max-lives 0",
        "run --max-conns 17M",
        "run --events birth",
        "run --events none,died",
        "run --events=",
        "run --port 70000",
        "run --port 80,70000",
        "run --port http",
        "run --lport 8100-8000",
        "run --rport 80,,90",
        "run --port 80,",
        "run --port=",
        "run --port 80-",
        "run --port=-80",
        "run --port 80-90-100",
        "run --port 80-70000",
        "run --laddr 10.1.2.3/8",
        "run --laddr 10.0.0.0/33",
        "run --raddr 2001:db8::1/32",
        "run --raddr ::/129",
        "run --laddr 10.0.0/8",
        "run --laddr localhost",
        "run --laddr ::ffff:10.0.0.1/104",
        "run --raddr 10.0.0.0/",
        "run --raddr fe80::1%eth0",
        "run --raddr 1.1.1.1,2.2.2.2,3.3.3.3,4.4.4.4,5.5.5.5,6.6.6.6,7.7.7.7,8.8.8.8,9.9.9.9",
        "run --pid 0",
        "run --pid self",
        "run --pid 4194305",
        "run --pid 1,2,3,4,5 --pid 6,7,8,9,10",
        "run --comm a_much_too_long_name",
        "run --comm größenwahnsinnig",
        "run --comm nginx,",
        "run --comm a,b,c,d,e,f,g,h,i",
        "run --cgroup a,b,c,d,e,f,g,h,i",
        "run --cgroup=",
        "run --netns 0",
        "run --netns 99999999999",
        "run --netns self,1,2,3,4,5,6,7,8",
        "run --cause rst",
        "run --cause reused,timeout",
        "run --cause reset --events born",
        "run --cause reset --events none",
        "run --role both",
        "run --role client,server",
        "run --port a\nb\x1b[31m",
        "doctor --format tui",
        "doctor --netns=",
        "doctor --netns 0",
        "doctor --netns self --netns 1",
        "doctor --watch 100ms",
        "doctor --watch 2h",
        "doctor --explain ports",
        "doctor --explain ports.room --format json",
        "doctor --explain ports.room --watch 1s",
        "doctor --with-trace",
    ];
    let said = wrong.map(|line| {
        let words = line.split(' ').filter(|word| !word.is_empty()).map(|word| word.replace('_', " "));
        match parse(["twtrace".to_owned()].into_iter().chain(words)) {
            Err(Exit { code: Code::Usage, stdout, stderr }) if stdout.is_empty() => {
                assert!(stderr.starts_with("twtrace: ") && stderr.lines().count() == 1, "{stderr}");
                assert!(stderr.matches(": ").count() >= 2 && stderr.contains("; "), "{stderr}");
                format!("$ twtrace {}\n{stderr}", line.escape_debug())
            }
            other => unreachable!("{line}: {other:?}"),
        }
    });
    assert_snapshot!(said.join("\n"));
}

/// What the doctor's stories tell people to type.
#[test]
fn commands_of_the_stories_are_right() {
    let mut seen = 0;
    for story in checks::stories() {
        let quoted = story.story.split('`').skip(1).step_by(2);
        for line in quoted.chain(story.by_hand.iter().copied()) {
            let command = line.split(['#', '>']).next().unwrap_or_default().trim();
            let command = command.strip_prefix("sudo ").unwrap_or(command);
            if let Some(rest) = command.strip_prefix("twtrace ") {
                let words = rest.split_ascii_whitespace().map(|word| if word == "ID" { story.id } else { word });
                let parsed = parse(["twtrace"].into_iter().chain(words));
                assert!(parsed.is_ok(), "{}: {line}: {parsed:?}", story.id);
                seen += 1;
            }
        }
    }
    assert!(seen > 2, "{seen}");
}

#[test]
fn words_that_are_no_text() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let words = ["twtrace", "run", "--port"].map(OsStr::new).into_iter().chain([OsStr::from_bytes(b"\xff")]);
    let Err(exit) = parse(words) else { unreachable!("no error") };
    assert_snapshot!(exit.stderr);
}

/// The end that a name leads to.
fn wrong_line(wrong: Wrong) -> String {
    let exit = Exit::from(wrong);
    format!("{} {}", exit.code as u8, exit.stderr)
}

fn fake(path: &Path) -> io::Result<Place> {
    match path.to_str() {
        Some("/run/netns/odd") => Ok(Place::Netns(1 << 40)),
        Some("/proc/1/ns/mnt") => Ok(Place::OtherNs),
        Some("/etc/passwd" | "/sys/fs/cgroup/cpu") => Ok(Place::Other),
        Some("/proc/1/ns/net") => Err(io::Error::from_raw_os_error(13)),
        _ => Err(io::Error::from_raw_os_error(2)),
    }
}

#[test]
fn names_that_lead_nowhere() {
    let resolver = Resolver::new("/", fake);
    let cgroups = ["gone", "cpu", "/etc/passwd", "/a.slice"].map(|path| match resolver.cgroup(path.as_ref()) {
        Ok(id) => id.to_string(),
        Err(wrong) => wrong_line(wrong),
    });
    let paths = ["/gone", "/etc/passwd", "/proc/1/ns/mnt", "/proc/1/ns/net", "/run/netns/odd", "blue", "./blue"];
    let namespaces = paths.map(|path| NetnsSpec::Path(path.into())).into_iter().chain([NetnsSpec::Own]);
    let namespaces = namespaces.map(|spec| match resolver.netns(&spec) {
        Ok((inum, _)) => inum.to_string(),
        Err(wrong) => wrong_line(wrong),
    });
    assert_snapshot!(cgroups.into_iter().chain(namespaces).collect::<String>());
}

#[test]
fn codes_are_those_of_sysexits() {
    let codes =
        [Code::Success, Code::Wrong, Code::Critical, Code::Usage, Code::Unsupported, Code::Internal, Code::Privilege];
    assert_eq!(codes.map(|code| code as u8), [0, 1, 2, 64, 69, 70, 77]);
}
