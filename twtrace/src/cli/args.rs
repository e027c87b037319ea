//! The command line as clap sees it: the one definition behind the parser and the help. Values that need more than a
//! word list stay text here; mod.rs and list.rs read them, with messages of their own.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use super::{Backend, EbpfLog, Format, Page, RunFormat};
use crate::traffic::hand;

const EXAMPLES: &str = "\
Examples:
  twtrace run                                      live view of this machine; q ends it
  twtrace run --format text                        one line for each event
  twtrace run -d 30 --port 80,8000-8100            30 seconds of web traffic
  twtrace run --container web                      one container
  twtrace run --cause reused,recycled --json | jq .
  twtrace probe                                    what this kernel lets twtrace watch
  twtrace doctor                                   what is wrong here, without BPF
  twtrace doctor --container web                   the same for one container's network
  twtrace lab --quick                              check twtrace against this kernel

Exit codes: 0 success, 1 lab found a difference or doctor a warning, 2 doctor found failing connections, \
64 wrong usage, 69 this kernel cannot be watched, 70 other error, 75 the reader of the output stopped reading, \
77 missing privilege.";

const RUN_EXAMPLES: &str = "\
Values of one filter are alternatives; different filters add up: --lport 443 --pid 7,9 selects local port 443 and \
either process. --cgroup, --cgroup-tree, --container and --unit together are one filter. Separate values by commas, or \
repeat the option. An event whose value is unknown does not match.

Words of other tools: -p PID, -L and -D (local and remote ports), -d and -i work as in the BCC tools; --sport is --lport, \
--dport is --rport, --json is --format json. A number without a unit is seconds: -d 10 is --duration 10s.

--container and --unit need no daemon. A container or unit whose processes are alone in their network namespace is \
selected by that namespace, which includes sockets whose closer is unknown. Any other is selected by the cgroup of the \
process that closes, with all cgroups below. After a restart the cgroup is a new one: run twtrace again.

EXPRESSION is a filter in tcpdump's words and ours: host, net, port, portrange, ip, ip6, after src (the local end) or dst; \
event, state, cause, role, pid, comm, cgroup, cgroup-tree, container, unit, netns; life, with <, <=, =, >= or > and a time. \
Join them by and, or, not and parentheses; a value alone takes the words of the one before: dst port 80 or 443. Quote what \
the shell would take for its own: 'life > 5s'. The same expressions work behind / in the live view.

Examples:
  twtrace run dst port 443 and not cause expired   what did not end by its timer
  twtrace run 'role client and (unit web.service or life < 1s)'
  twtrace run --port 80,8000-8100                  ports at either end
  twtrace run --laddr 10.0.0.0/8 --role client     connections opened here from 10.0.0.0/8
  twtrace run --netns /run/netns/blue --comm curl  closed by curl in namespace blue
  twtrace run --container shop-0/app --by dest     one container of a Kubernetes pod
  twtrace run --unit nginx.service                 one systemd service
  twtrace run --cause reset,data_reset             TIME_WAITs that a RST ended
  twtrace run --events none --duration 1m          no events, only the final summary
  twtrace run --events none --by dest              who runs out of ports, every 5 s
  twtrace run --also json:events.jsonl             the live view, and JSON in a file
  twtrace run --demo --duration 10s                with demo traffic

docs/glossary.md says what minisock, turn, headroom and other words mean.";

const PROBE_EXAMPLES: &str = "\
Examples:
  twtrace probe
  twtrace probe --backend tracepoint
  twtrace -v probe                                 with the verifier's log of refused programs";

const LAB_EXAMPLES: &str = "\
Each scenario runs in its own network namespace, which is removed at the end. Nothing else on this machine is changed. \
The lab compares what twtrace reports with the sockets themselves, /proc/net/netstat, sockstat and sock_diag.

Examples:
  twtrace lab                                      everything, about 70 s
  twtrace lab --quick                              skip scenarios that wait 60 s for a TIME_WAIT to expire
  twtrace lab --list
  twtrace lab --scenario reuse,reuse-denied --backend kprobe --json";

const DOCTOR_EXAMPLES: &str = "\
Reads only /proc, /sys and sock_diag: no BPF, and nothing is changed. Without root the doctor sees its own network \
namespace, and says what it could not see.

Examples:
  twtrace doctor                                   one verdict, its evidence, one safe next step
  twtrace doctor --netns /run/netns/blue           another network namespace
  twtrace doctor --container web                   the network namespace of a container
  twtrace doctor --pid 4711                        the network namespace of a process
  twtrace doctor --watch 5s                        repeat every 5 s
  twtrace doctor --explain ports.exhausted         all about one finding
  twtrace run --json --events born --duration 1m > trace.json
  twtrace doctor --with-trace trace.json           add what only a trace knows: timestamps by peer

Exit codes: 0 nothing to do, 1 warning, 2 connections fail.";

/// An exact tracer for TCP TIME_WAIT: which sockets are in it, which process put them there, how long each one stays, what
/// ended it, and what the kernel dropped because a table was full.
#[derive(Debug, Parser)]
#[command(name = "twtrace", version, after_help = EXAMPLES, max_term_width = 100, disable_help_subcommand = true)]
pub(super) struct Root {
    /// Show more on standard error: -v adds the verifier's log if a program does not load
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Trace now: a live view, or a line for each event, and a summary that is compared with the kernel's counters
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// Show what this kernel offers: each capability and its backend, or the reason and what to do
    #[command(after_help = PROBE_EXAMPLES)]
    Probe(ProbeArgs),
    /// Find out why connections fail or ports run out, and whether TIME_WAIT is the cause: one verdict, its evidence, one
    /// safe next step
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),
    /// Try every way into and out of TIME_WAIT on this kernel, and compare what twtrace reports with the kernel
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
    /// How to watch: auto takes the first backend that works, for each capability
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Backend::Auto, help_heading = "Watching")]
    pub backend: Backend,
    /// Read the kernel's types from this BTF file, up to 64 MB [default: /sys/kernel/btf/vmlinux]
    #[arg(long, value_name = "FILE", help_heading = "Watching")]
    pub btf: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct ProbeArgs {
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Short for --format json
    #[arg(short, long, conflicts_with = "format")]
    pub json: bool,
    #[command(flatten)]
    pub hooks: HookArgs,
}

#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Short for --format json
    #[arg(short, long, conflicts_with = "format")]
    pub json: bool,
    /// Judge only this network namespace: self, an inode number, or a file such as /run/netns/blue
    /// or /proc/PID/ns/net [default: all that can be found]
    #[arg(long, value_name = "NETNS", conflicts_with_all = ["pid", "container", "unit"])]
    pub netns: Option<String>,
    /// Judge only the network namespace of this process
    #[arg(short, long, value_name = "PID", conflicts_with_all = ["container", "unit"])]
    pub pid: Option<String>,
    /// Judge only the network namespace of this container: name, POD/CONTAINER, or 4 or more digits of its id
    #[arg(long, value_name = "NAME", conflicts_with = "unit")]
    pub container: Option<String>,
    /// Judge only the network namespace of this systemd unit: nginx.service
    #[arg(long, value_name = "NAME")]
    pub unit: Option<String>,
    /// Look again this often, until Ctrl-C: 1s to 1h
    #[arg(long, value_name = "TIME")]
    pub watch: Option<String>,
    /// Explain one finding, and say whether it holds here
    #[arg(long, value_name = "ID", conflicts_with_all = ["watch", "format", "json"])]
    pub explain: Option<String>,
    /// Also use a trace that `twtrace run --json` wrote
    #[arg(long, value_name = "FILE")]
    pub with_trace: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct LabArgs {
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Short for --format json
    #[arg(short, long, conflicts_with = "format")]
    pub json: bool,
    /// List the scenarios, and run none
    #[arg(long)]
    pub list: bool,
    /// Only these scenarios [default: all]
    #[arg(long, value_name = "NAMES")]
    pub scenario: Vec<String>,
    /// Skip scenarios that wait 60 s for a TIME_WAIT to expire
    #[arg(long)]
    pub quick: bool,
    /// Scenarios that run at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// Connections of the storm
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1_000..=200_000))]
    pub connections: u32,
    #[command(flatten)]
    pub hooks: HookArgs,
}

#[derive(Args, Debug)]
pub(super) struct RunArgs {
    /// Output format [default: tui on a terminal, else text]
    #[arg(long, value_name = "FORMAT", value_enum, help_heading = "Output")]
    pub format: Option<RunFormat>,
    /// Short for --format json
    #[arg(short, long, conflicts_with = "format", help_heading = "Output")]
    pub json: bool,
    /// Write the run to a file too, beside what is shown; repeat the option for several: json:events.jsonl, text:events.log.
    /// An existing file is overwritten
    #[arg(long, value_name = "FORMAT:FILE", help_heading = "Output")]
    pub also: Vec<String>,
    /// Stop after this time: 500ms, 30s, 5m, 1h, or seconds [default: at Ctrl-C]
    #[arg(short, long, value_name = "TIME", help_heading = "Output")]
    pub duration: Option<String>,
    /// At the end, wait for a slow reader of the output; give up after this time without progress: 0s to 24h
    #[arg(long, value_name = "TIME", default_value = "10s", help_heading = "Output")]
    pub drain_for: String,
    /// Write events, and read the counters, this often: 10ms to 1h
    #[arg(short, long, value_name = "TIME", default_value = "1s", help_heading = "Output")]
    pub interval: String,
    /// Add tables to text, and to the ticks of JSON: port, dest, owner, or several
    /// [default with --summary-every: all three]
    #[arg(long, value_name = "LIST", help_heading = "Output")]
    pub by: Vec<String>,
    /// Show the tables this often: 100ms to 1h [default: text 5s, JSON each --interval]
    #[arg(long, value_name = "TIME", help_heading = "Output")]
    pub summary_every: Option<String>,
    /// Rows of each table
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000), help_heading = "Output")]
    pub top: u32,
    /// Draw the live view with ASCII only
    #[arg(long, help_heading = "Output")]
    pub ascii: bool,
    /// Show what twtrace itself costs: time in eBPF programs, CPU, memory, ring (in the live view: key i)
    #[arg(long, help_heading = "Output")]
    pub self_stats: bool,
    /// Show only these events: born, turned, rearmed, died, refused, no_port, reuse_denied, no_bind; or none. Programs that
    /// only other events need are not loaded, so those events are not counted either; with none, everything is counted
    /// [default: all]
    #[arg(long, value_name = "LIST", help_heading = "Output")]
    pub events: Vec<String>,

    #[command(flatten)]
    pub hooks: HookArgs,
    /// Make demo traffic, in a network namespace that is removed at the end
    #[arg(long, help_heading = "Watching")]
    pub demo: bool,
    /// Size of the ring between kernel and twtrace, bytes: 4K to 1G, a power of two; raise it if events are lost
    #[arg(long, value_name = "BYTES", default_value = "4M", help_heading = "Watching")]
    pub ring_size: String,
    /// Size of the table of TIME_WAIT sockets, entries: 1 to 16M [default: by tcp_max_tw_buckets]
    #[arg(long, value_name = "N", help_heading = "Watching")]
    pub max_lives: Option<String>,
    /// Size of the table of open connections, entries: 1 to 16M [default: 64K]
    #[arg(long, value_name = "N", help_heading = "Watching")]
    pub max_conns: Option<String>,
    /// Log of the eBPF programs on standard error, from this level on
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = EbpfLog::Off, help_heading = "Watching")]
    pub ebpf_log: EbpfLog,

    #[command(flatten)]
    pub filters: FilterArgs,
    /// Only events for which this holds, beside all options: dst port 443 and not cause expired; see below
    #[arg(value_name = "EXPRESSION", help_heading = "Filters")]
    pub expression: Vec<String>,
}

#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Filters")]
pub(super) struct FilterArgs {
    /// Only these local ports: 80,8000-8100 [default: all]
    #[arg(short = 'L', long, visible_alias = "sport", value_name = "PORTS")]
    pub lport: Vec<String>,
    /// Only these remote ports [default: all]
    #[arg(short = 'D', long, visible_alias = "dport", value_name = "PORTS")]
    pub rport: Vec<String>,
    /// Only these ports, at either end [default: all]
    #[arg(short = 'P', long, value_name = "PORTS")]
    pub port: Vec<String>,
    /// Only these local addresses, up to 8: 10.0.0.0/8,::1 (no prefix: one host) [default: all]
    #[arg(long, value_name = "CIDRS")]
    pub laddr: Vec<String>,
    /// Only these remote addresses, up to 8 [default: all]
    #[arg(long, value_name = "CIDRS")]
    pub raddr: Vec<String>,
    /// Only connections that these processes closed (no_port, reuse_denied: that they wanted to open), up to 8
    /// process ids of the initial pid namespace [default: all]
    #[arg(short, long, value_name = "PIDS")]
    pub pid: Vec<String>,
    /// Only connections that threads of these names closed, up to 8 names of up to 15 bytes [default: all]
    #[arg(long, value_name = "NAMES")]
    pub comm: Vec<String>,
    /// Only connections that were closed in these cgroups, up to 8 directories of the cgroup v2 tree, relative ones
    /// below /sys/fs/cgroup; cgroups below them do not match [default: all]
    #[arg(long, value_name = "PATHS")]
    pub cgroup: Vec<String>,
    /// As --cgroup, but cgroups below them match too, including cgroups that are made later, up to 8 [default: all]
    #[arg(long, value_name = "PATHS")]
    pub cgroup_tree: Vec<String>,
    /// Only these containers (docker, podman, containerd, CRI-O, lxc), up to 8: name, POD/CONTAINER, or 4 or more
    /// digits of the id [default: all]
    #[arg(long, value_name = "NAMES")]
    pub container: Vec<String>,
    /// Only these systemd units, up to 8: nginx.service, system.slice [default: all]
    #[arg(long, value_name = "NAMES")]
    pub unit: Vec<String>,
    /// Only these network namespaces, up to 8: self, an inode number, or a file such as
    /// /run/netns/blue or /proc/PID/ns/net [default: all]
    #[arg(long, value_name = "LIST")]
    pub netns: Vec<String>,
    /// Only `died` events with these causes: expired, reused, reused_bound, recycled, reset, data_reset,
    /// killed, netns, tproxy, ? (unknown) [default: all]
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
