use proptest::prelude::*;

use super::*;

const ID: &str = "3f4e5a6b7c8d9e0f3f4e5a6b7c8d9e0f3f4e5a6b7c8d9e0f3f4e5a6b7c8d9e0f";

fn at(reach: Reach) -> Place {
    Place { reach, ..Place::default() }
}

#[test]
fn commands_act_where_they_should() {
    for (reach, expected) in [
        (Reach::Here, "sysctl -w net.ipv4.tcp_timestamps=1"),
        (Reach::Named("blue".to_owned()), "ip netns exec blue sysctl -w net.ipv4.tcp_timestamps=1"),
        (Reach::Named("a b".to_owned()), "ip netns exec 'a b' sysctl -w net.ipv4.tcp_timestamps=1"),
        (Reach::Process(4711), "nsenter --net=/proc/4711/ns/net sysctl -w net.ipv4.tcp_timestamps=1"),
        (Reach::Unknown, "in network namespace 7: sysctl -w net.ipv4.tcp_timestamps=1"),
    ] {
        assert_eq!(at(reach).setting(7, "net.ipv4.tcp_timestamps", "1"), expected);
    }
    let range = at(Reach::Process(1)).setting(7, "net.ipv4.ip_local_port_range", "1024 65535");
    assert!(range.ends_with("sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\""), "{range}");
    let many = at(Reach::Named("blue".to_owned())).command(7, "ss -s; nstat");
    assert_eq!(many, "ip netns exec blue sh -c 'ss -s; nstat'");
}

#[test]
fn what_is_the_machines_is_set_on_the_machine() {
    let mut place = at(Reach::Process(4711));
    for key in ["net.netfilter.nf_conntrack_max", "fs.file-max", "net.ipv4.tcp_mem"] {
        assert_eq!(place.setting(7, key, "9"), format!("sysctl -w {key}=9"));
    }
    place.host_is_elsewhere = true;
    let step = place.setting(7, "net.netfilter.nf_conntrack_max", "9");
    assert_eq!(step, "on the host, in its initial network namespace: sysctl -w net.netfilter.nf_conntrack_max=9");
    // A key that nobody knows acts in the namespace: elsewhere it would change another's.
    assert!(place.setting(7, "net.ipv4.tcp_new", "9").starts_with("nsenter "));
}

#[test]
fn containers_are_recognised_by_their_cgroups() {
    let docker = Some((Runtime::Docker, "3f4e5a6b7c8d"));
    let (podman, pod) = (Some((Runtime::Podman, "3f4e5a6b7c8d")), Some((Runtime::Kubernetes, "3f4e5a6b7c8d")));
    for (path, expected) in [
        (format!("0::/system.slice/docker-{ID}.scope"), docker),
        (format!("12:memory:/docker/{ID}\n0::/"), docker),
        (format!("0::/docker/{ID}/init.scope"), docker),
        (format!("0::/machine.slice/libpod-{ID}.scope/container"), podman),
        (format!("0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope"), podman),
        (format!("0::/libpod_parent/libpod-payload-{ID}"), podman),
        (format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope"), pod),
        (format!("0::/kubepods/besteffort/pod6c2b1f0e-0000/{ID}"), pod),
        (format!("0::/kubepods.slice/kubepods-burstable.slice/x.slice/crio-{ID}.scope"), pod),
        (format!("0::/docker/{}/kubelet/kubepods/pod1/{ID}", "0".repeat(64)), pod),
        (format!("0::/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{ID}"), pod),
        (format!("0::/default/{ID}"), Some((Runtime::Containerd, "3f4e5a6b7c8d"))),
        // Beside a container, and none.
        (format!("0::/machine.slice/libpod-conmon-{ID}.scope"), None),
        (format!("0::/x/crio-conmon-{ID}.scope"), None),
        (format!("0::/system.slice/{ID}.service"), None),
        ("0::/system.slice/docker.service".to_owned(), None),
        ("0::/user.slice/user-1000.slice/session-3.scope".to_owned(), None),
        ("0::/".to_owned(), None),
        (String::new(), None),
    ] {
        let told = container(&path);
        let expected = expected.map(|(runtime, id)| Container { runtime, id: id.to_owned() });
        assert_eq!(told, expected, "{path}");
    }
}

#[test]
fn a_container_keeps_what_its_own_configuration_sets() {
    let of = |runtime, steps: &[String]| {
        let container = Some(Container { runtime, id: "3f4e5a6b7c8d".to_owned() });
        Place { reach: Reach::Process(9), container, ..Place::default() }.lasting(steps)
    };
    let place = at(Reach::Process(9));
    let steps = [
        format!("switch cookies on: {} (the default)", place.setting(7, "net.ipv4.tcp_syncookies", "1")),
        format!("{}, which is for the end that connects", place.setting(7, "net.ipv4.tcp_tw_reuse", "1")),
        place.setting(7, "net.ipv4.ip_local_port_range", "1024 65535"),
        place.setting(7, "fs.file-max", "100"),
    ];
    assert_eq!(
        of(Runtime::Docker, &steps).unwrap_or_default(),
        "docker run --sysctl net.ipv4.tcp_syncookies=1 --sysctl net.ipv4.tcp_tw_reuse=1 --sysctl \
         net.ipv4.ip_local_port_range=\"1024 65535\" ... for container 3f4e5a6b7c8d (Compose: sysctls:); a value set from \
         outside is lost when the container restarts"
    );
    let pod = of(Runtime::Kubernetes, &steps).unwrap_or_default();
    for part in [
        "{name: net.ipv4.tcp_syncookies, value: \"1\"}",
        "{name: net.ipv4.ip_local_port_range, value: \"1024 65535\"}",
        "net.ipv4.tcp_syncookies is a safe sysctl;",
        "--allowed-unsafe-sysctls=net.ipv4.tcp_tw_reuse",
    ] {
        assert!(pod.contains(part), "{pod}");
    }
    assert!(
        of(Runtime::Kubernetes, &[place.setting(7, "net.ipv4.tcp_fin_timeout", "60")])
            .unwrap_or_default()
            .contains("1.29")
    );
    // Nothing of the namespace's is set, and there is no container.
    assert_eq!(of(Runtime::Podman, &[steps[3].clone(), "find the program".to_owned()]), None);
    assert_eq!(at(Reach::Process(9)).lasting(&steps), None);
}

#[test]
fn places_have_words() {
    let mut place = Place { process: Some((7, "nginx".to_owned())), ..at(Reach::Here) };
    assert_eq!(place.words(), "");
    place.reach = Reach::Process(7);
    assert_eq!(place.words(), "process 7 nginx");
    place.container = container(&format!("0::/docker/{ID}"));
    place.name = Some("blue".to_owned());
    assert_eq!(place.words(), "blue, docker 3f4e5a6b7c8d");
}

proptest! {
    /// Total: any text is a container or none, and any step sets something or nothing.
    #[test]
    fn any_text_is_read(text in ".{0,80}", step in "(sysctl -w )?[a-z.]{0,3}=?\"?.{0,9}\"?") {
        let _ = container(&text);
        let _ = container(&format!("0::/docker/{text}"));
        let docker = Container { runtime: Runtime::Docker, id: String::new() };
        let _ = Place { container: Some(docker), ..Place::default() }.lasting(&[text, step]);
    }

    /// What was set is found again.
    #[test]
    fn settings_are_found_again(value in "[0-9]{1,9}( [0-9]{1,9}){0,2}", name in "[a-z_]{1,9}") {
        let key = format!("net.ipv4.{name}");
        let step = at(Reach::Process(3)).setting(7, &key, &value);
        let found: Vec<_> = set_by(&step).map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned())).collect();
        prop_assert_eq!(found, vec![(key, value)]);
    }

    /// A shell gets the name as one word.
    #[test]
    fn names_are_one_word(name in ".{0,12}") {
        let quoted = quoted(&name);
        let plain = quoted.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).map(|word| word.replace(r"'\''", "'"));
        prop_assert_eq!(plain.unwrap_or(quoted.clone()), name);
    }
}
