//! The command line as clap sees it: the one definition behind the parser and the help. Values that need more than a
//! word list stay text here; mod.rs and list.rs read them, with messages of their own.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use super::{Backend, EbpfLog, Format, Page, RunFormat};
use crate::lab::hand;

const EXAMPLES: &str = "\
Examples:
  twtrace run                                      what happens on this machine, live; q ends it
  twtrace run --format text                        one line for each event
  twtrace run --duration 30s --port 80,8000-8100   half a minute of web traffic
  twtrace run --cause reused,recycled --format json | jq .
  twtrace probe                                    what this kernel lets twtrace watch
  twtrace doctor                                   what is wrong here, if anything, without BPF
  twtrace lab --quick                              whether what twtrace says is so, on this kernel

Exit codes: 0 done, 1 the lab found a difference or the doctor a warning, 2 the doctor found \
connections that fail, 64 wrong usage, 69 this kernel cannot be watched, 75 nobody read the output to its end, \
77 no privilege, 70 the rest.";

const RUN_EXAMPLES: &str = "\
Values of one filter are alternatives, filters add up: --lport 443 --pid 7,9 wants local port 443 and \
one of the two processes. A list is separated by commas, or given by repeating the option. What is \
filtered on and not known does not match.

Examples:
  twtrace run --port 80,8000-8100                  either end at one of these ports
  twtrace run --laddr 10.0.0.0/8 --role client     what this host opened from 10.0.0.0/8
  twtrace run --netns /run/netns/blue --comm curl  what curl closed in the namespace blue
  twtrace run --cause reset,data_reset             only the ends by a RST
  twtrace run --events none --duration 1m          no events, only the counters at the end
  twtrace run --events none --by dest              who runs out of ports, every 5 s
  twtrace run --demo --duration 10s                with traffic of its own";

const PROBE_EXAMPLES: &str = "\
Examples:
  twtrace probe
  twtrace probe --backend tracepoint
  twtrace -v probe                                 with the verifier's log, if it refuses a program";

const LAB_EXAMPLES: &str = "\
Each scenario acts in a network namespace of its own, which goes away at the end; nothing else on this machine is \
changed. What twtrace said is held against the sockets themselves, /proc/net/netstat, sockstat and sock_diag.

Examples:
  twtrace lab                                      everything: a little more than a minute
  twtrace lab --quick                              without waiting for a real TIME_WAIT to run out
  twtrace lab --list
  twtrace lab --scenario reuse,reuse-denied --backend kprobe --format json";

const DOCTOR_EXAMPLES: &str = "\
Reads /proc, /sys and sock_diag alone: no BPF, and nothing is changed. Without root it sees its own network namespace, \
and says what it could not see.

Examples:
  twtrace doctor                                   one verdict, its evidence, one safe next step
  twtrace doctor --netns /run/netns/blue           in another network namespace
  twtrace doctor --watch 5s                        again and again
  twtrace doctor --explain ports.exhausted         the whole story of one finding
  twtrace run --format json --events born --duration 1m > trace.json
  twtrace doctor --with-trace trace.json           with what only a trace tells: timestamps by peer

Exit codes: 0 nothing has to be done, 1 there is a warning, 2 connections fail.";

/// An exact tracer for TCP TIME_WAIT: which sockets are in it, who put them there, how long each one stays, what ended it,
/// and what the kernel refused for lack of room.
#[derive(Debug, Parser)]
#[command(name = "twtrace", version, after_help = EXAMPLES, max_term_width = 100, disable_help_subcommand = true)]
pub(super) struct Root {
    /// Say more on standard error; -v adds the verifier's log when a program does not load
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Trace now: a live view, or lines for each event, and a summary that is held against the kernel's own counters
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// Show what this kernel offers: each capability, its backend, or why not and what to do
    #[command(after_help = PROBE_EXAMPLES)]
    Probe(ProbeArgs),
    /// Say what is wrong with this machine's TIME_WAITs, and with what is blamed on them: one verdict, its evidence, one
    /// safe next step
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),
    /// Try every way into and out of TIME_WAIT on this kernel, and hold what twtrace says against the kernel
    #[command(after_help = LAB_EXAMPLES)]
    Lab(LabArgs),
    /// Be a helper process of the lab
    #[command(name = hand::COMMAND, hide = true)]
    LabHand,
    /// Print a page that is generated
    #[command(name = "__page", hide = true)]
    Page {
        /// Which
        #[arg(value_enum)]
        page: Page,
    },
    /// Print what the verifier took for each program
    #[command(name = "__verifier", hide = true)]
    Verifier {
        /// Of this backend
        #[arg(value_enum)]
        backend: Backend,
    },
}

#[derive(Args, Debug)]
pub(super) struct HookArgs {
    /// How to watch; auto takes, for each capability, the first that works
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Backend::Auto, help_heading = "Watching")]
    pub backend: Backend,
    /// Read the kernel's types from this BTF file [default: /sys/kernel/btf/vmlinux]
    #[arg(long, value_name = "FILE", help_heading = "Watching")]
    pub btf: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct ProbeArgs {
    /// How to show it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    #[command(flatten)]
    pub hooks: HookArgs,
}

#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// How to show it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Look into this network namespace alone: self, an inode number, or a file such as /run/netns/blue
    /// or /proc/PID/ns/net [default: all that can be found]
    #[arg(long, value_name = "NETNS")]
    pub netns: Option<String>,
    /// Look again this often, until Ctrl-C: 1s to 1h
    #[arg(long, value_name = "TIME")]
    pub watch: Option<String>,
    /// Tell the whole story of one finding, and whether it holds here
    #[arg(long, value_name = "ID", conflicts_with_all = ["watch", "format"])]
    pub explain: Option<String>,
    /// Take into account what `twtrace run --format json` wrote
    #[arg(long, value_name = "FILE")]
    pub with_trace: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct LabArgs {
    /// How to show it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Show the scenarios, and run none
    #[arg(long)]
    pub list: bool,
    /// Only these scenarios [default: all]
    #[arg(long, value_name = "NAMES")]
    pub scenario: Vec<String>,
    /// Leave out those that wait until a real TIME_WAIT has run out
    #[arg(long)]
    pub quick: bool,
    /// How many scenarios run at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// How many connections the storm makes
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1_000..=200_000))]
    pub connections: u32,
    #[command(flatten)]
    pub hooks: HookArgs,
}

#[derive(Args, Debug)]
pub(super) struct RunArgs {
    /// How to show it [default: tui on a terminal, else text]
    #[arg(long, value_name = "FORMAT", value_enum, help_heading = "Output")]
    pub format: Option<RunFormat>,
    /// Stop after this long: 500ms, 30s, 5m, 1h [default: at Ctrl-C]
    #[arg(long, value_name = "TIME", help_heading = "Output")]
    pub duration: Option<String>,
    /// At the end wait for a slow reader of the output; give up after this long without progress: 0s to 24h
    #[arg(long, value_name = "TIME", default_value = "10s", help_heading = "Output")]
    pub drain_for: String,
    /// Write what has gathered, and read the counters, this often: 10ms to 1h
    #[arg(long, value_name = "TIME", default_value = "1s", help_heading = "Output")]
    pub interval: String,
    /// Add tables to text, and to the ticks of JSON: port, dest, owner, or several of them
    /// [default with --summary-every: all three]
    #[arg(long, value_name = "LIST", help_heading = "Output")]
    pub by: Vec<String>,
    /// Show the tables this often: 100ms to 1h [default: text 5s, JSON each --interval]
    #[arg(long, value_name = "TIME", help_heading = "Output")]
    pub summary_every: Option<String>,
    /// Show this many rows of each table
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000), help_heading = "Output")]
    pub top: u32,
    /// Draw the live view with ASCII alone
    #[arg(long, help_heading = "Output")]
    pub ascii: bool,
    /// Show what twtrace itself costs: time in eBPF programs, processor, memory, ring (in the live view: key i)
    #[arg(long, help_heading = "Output")]
    pub self_stats: bool,
    /// Show these events: born, turned, rearmed, died, refused, no_port, reuse_denied, no_bind; or none. What the others alone
    /// need is not watched: less to pay, but not counted either; with none, everything is counted
    /// [default: all]
    #[arg(long, value_name = "LIST", help_heading = "Output")]
    pub events: Vec<String>,

    #[command(flatten)]
    pub hooks: HookArgs,
    /// Make traffic to look at, in a network namespace of its own that is removed at the end
    #[arg(long, help_heading = "Watching")]
    pub demo: bool,
    /// Size of the ring between kernel and twtrace, in bytes: 4K to 1G, a power of two; lost events ask for more
    #[arg(long, value_name = "BYTES", default_value = "4M", help_heading = "Watching")]
    pub ring_size: String,
    /// Size of the table of minisocks, in entries: 1 to 16M [default: fitted to this machine]
    #[arg(long, value_name = "N", help_heading = "Watching")]
    pub max_lives: Option<String>,
    /// Size of the table of open connections, in entries: 1 to 16M [default: fitted to this machine]
    #[arg(long, value_name = "N", help_heading = "Watching")]
    pub max_conns: Option<String>,
    /// Let the eBPF programs log to standard error, from this level on
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = EbpfLog::Off, help_heading = "Watching")]
    pub ebpf_log: EbpfLog,

    #[command(flatten)]
    pub filters: FilterArgs,
}

#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Filters")]
pub(super) struct FilterArgs {
    /// Only these local ports: 80,8000-8100 [default: all]
    #[arg(long, value_name = "PORTS")]
    pub lport: Vec<String>,
    /// Only these remote ports [default: all]
    #[arg(long, value_name = "PORTS")]
    pub rport: Vec<String>,
    /// Only connections with one of these ports at either end [default: all]
    #[arg(long, value_name = "PORTS")]
    pub port: Vec<String>,
    /// Only these local addresses, up to 8: 10.0.0.0/8,::1 (no prefix: one host) [default: all]
    #[arg(long, value_name = "CIDRS")]
    pub laddr: Vec<String>,
    /// Only these remote addresses, up to 8 [default: all]
    #[arg(long, value_name = "CIDRS")]
    pub raddr: Vec<String>,
    /// Only what these processes closed (no_port, reuse_denied: what their connect() wanted), up to 8
    /// process ids of the initial pid namespace [default: all]
    #[arg(long, value_name = "PIDS")]
    pub pid: Vec<String>,
    /// Only what threads of these names closed, up to 8 names of up to 15 bytes [default: all]
    #[arg(long, value_name = "NAMES")]
    pub comm: Vec<String>,
    /// Only what was closed in these cgroups, up to 8 directories of the cgroup v2 tree, relative ones
    /// below /sys/fs/cgroup; their children do not count [default: all]
    #[arg(long, value_name = "PATHS")]
    pub cgroup: Vec<String>,
    /// Only these network namespaces, up to 8: self, an inode number, or a file such as
    /// /run/netns/blue or /proc/PID/ns/net [default: all]
    #[arg(long, value_name = "LIST")]
    pub netns: Vec<String>,
    /// Only these ends, and no other events: expired, reused, reused_bound, recycled, reset, data_reset,
    /// killed, netns, tproxy, ? (not known) [default: all]
    #[arg(long, value_name = "CAUSES")]
    pub cause: Vec<String>,
    /// Only connections that this host opened (client) or accepted (server) [default: both]
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
    /// Only IPv4, v4-mapped included; with -6, both [default: both]
    #[arg(short = '4')]
    pub ipv4: bool,
    /// Only IPv6; with -4, both [default: both]
    #[arg(short = '6')]
    pub ipv6: bool,
}
