//! The eBPF programs of twtrace: how the kernel is watched.
//!
//! One file per behaviour, with its hook twins (fentry, kprobe, tracepoint) side by side around one inlined body. User
//! space loads the twins that the plan chose; the others never reach the kernel.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod again;
#[cfg(feature = "extra")]
mod bench;
mod bind;
mod birth;
mod conn;
mod connect;
mod death;
mod emit;
#[cfg(feature = "extra")]
mod extra;
mod filter;
mod kernel;
mod knobs;
mod maps;
mod mptcp;
mod passive;
mod plain;
mod rearm;
mod refusal;
mod seed;
mod stack;
mod table;

/// A panic that can be reached is an endless loop, which the verifier refuses: it shows at load, never in the kernel.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lets only GPL-compatible programs call the helpers used here (bpf_probe_read_kernel, bpf_get_stack).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
