//! The rooms and who may know whom. The architecture is the list below; the compiler holds the rest of it by `no_std`.

use hawker_tests::workspace;

/// Package, and the packages of the workspace that it may depend on, for any purpose. A test inside a room
/// uses what the room may use; tests across rooms live in hawker-tests, which may use everything.
const EDGES: &[(&str, &[&str])] = &[
    ("hawker-proto", &[]),
    ("hawker-ring", &[]),
    ("hawker-swarm", &["hawker-proto"]),
    ("hawker-storage", &["hawker-proto"]),
    ("hawker-scheduler", &["hawker-proto"]),
    ("hawker-api", &["hawker-proto"]),
    (
        "hawker-agent",
        &["hawker-proto", "hawker-swarm", "hawker-storage", "hawker-ring", "hawker-api", "hawker-scheduler"],
    ),
    ("hawker-server", &["hawker-proto", "hawker-scheduler", "hawker-api"]),
    ("hawker-sim", &["hawker-proto", "hawker-swarm", "hawker-scheduler", "hawker-storage"]),
    ("hawker-bench", &["hawker-agent", "hawker-ring", "hawker-sim"]),
    ("hawker", &["hawker-proto", "hawker-api", "hawker-agent", "hawker-server", "hawker-bench", "hawker-sim"]),
];
const MAY_USE_EVERYTHING: &str = "hawker-tests";

#[test]
fn every_edge_between_rooms_is_one_the_architecture_lists() {
    let metadata = workspace::metadata();
    let packages = metadata["packages"].as_array().expect("a list of packages");
    let names: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        if name == MAY_USE_EVERYTHING {
            continue;
        }
        let Some((_, allowed)) = EDGES.iter().find(|(room, _)| *room == name) else {
            wrong.push(format!("the room {name} is not in the architecture"));
            continue;
        };
        let dependencies = package["dependencies"].as_array().expect("a list of dependencies");
        for to in dependencies.iter().filter_map(|dependency| dependency["name"].as_str()) {
            if names.contains(&to) && !allowed.contains(&to) {
                wrong.push(format!("{name} must not depend on {to}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_listed_room_exists() {
    let metadata = workspace::metadata();
    let packages = metadata["packages"].as_array().expect("a list of packages");
    for (room, _) in EDGES {
        assert!(packages.iter().any(|package| package["name"] == *room), "{room} is listed, but not in the workspace");
    }
}

#[test]
fn pure_rooms_use_no_runtime_and_no_operating_system() {
    let metadata = workspace::metadata();
    for package in metadata["packages"].as_array().expect("a list of packages") {
        let name = package["name"].as_str().expect("a name");
        if !["hawker-proto", "hawker-swarm", "hawker-scheduler"].contains(&name) {
            continue;
        }
        for dependency in package["dependencies"].as_array().expect("a list of dependencies") {
            let to = dependency["name"].as_str().expect("a name");
            let is_normal = dependency["kind"].is_null();
            let touches_world = ["tokio", "rustix", "libc", "socket2", "getrandom", "io-uring"].contains(&to);
            assert!(!(is_normal && touches_world), "{name} is pure, but depends on {to}");
        }
    }
}
