#![allow(clippy::unwrap_used)]

use super::*;
use serde_json::json;

fn pod(uid: &str) -> Pod {
    let pod = json!({"metadata": {"name": format!("gate-{uid}"), "uid": uid, "labels": {names::LABEL_WORKLOAD: "gate"}}});
    serde_json::from_value(pod).unwrap()
}

fn stopping(uid: &str) -> Pod {
    let mut pod = pod(uid);
    pod.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
    pod
}

fn shown(pods: Vec<Pod>) -> Vec<Arc<Pod>> {
    pods.into_iter().map(Arc::new).collect()
}

/// The uids of what a pass plans on; of those that stop with a `-` in front.
fn uids(assumed: &mut Assumed, pods: Vec<Pod>) -> Vec<String> {
    let uid = |pod: &Arc<Pod>| {
        let sign = if is_stopping(pod) { "-" } else { "" };
        format!("{sign}{}", pod.uid().unwrap())
    };
    let mut uids: Vec<_> = assumed.overlay(shown(pods)).iter().map(uid).collect();
    uids.sort();
    uids
}

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

#[test]
fn a_pod_that_was_made_is_there_until_the_watch_has_shown_it() {
    let mut assumed = Assumed::default();
    assumed.note_made(pod("a"), NOW);
    assert_eq!(uids(&mut assumed, vec![pod("z")]), ["a", "z"]);
    assert_eq!(uids(&mut assumed, vec![pod("a"), pod("z")]), ["a", "z"]);
    assert_eq!(uids(&mut assumed, vec![pod("z")]), ["z"], "its end is believed");
}

#[test]
fn a_pod_that_was_deleted_stops_until_the_watch_has_shown_that_or_its_end() {
    let mut assumed = Assumed::default();
    assumed.note_deleted("a", Some(stopping("a")), NOW);
    assert_eq!(uids(&mut assumed, vec![pod("a")]), ["-a"]);
    assert_eq!(uids(&mut assumed, vec![]), [""; 0]);
    assumed.note_deleted("b", None, NOW);
    assert_eq!(uids(&mut assumed, vec![pod("b")]), [""; 0]);
    assert_eq!(uids(&mut assumed, vec![]), [""; 0]);
    assert!(assumed.entries.is_empty());
}

#[test]
fn a_pod_that_was_made_and_deleted_before_the_watch_showed_it_still_stops() {
    let mut assumed = Assumed::default();
    assumed.note_made(pod("a"), NOW);
    assumed.note_deleted("a", Some(stopping("a")), NOW);
    assert_eq!(uids(&mut assumed, vec![]), ["-a"]);
    assert_eq!(uids(&mut assumed, vec![pod("a")]), ["-a"]);
    assert_eq!(uids(&mut assumed, vec![]), [""; 0]);
}

#[test]
fn a_list_replaces_what_was_assumed() {
    let mut assumed = Assumed::default();
    assumed.note_made(pod("lost"), NOW);
    let foreign = || Pod {
        metadata: serde_json::from_value(json!({"name": "x", "uid": "foreign"})).unwrap(),
        ..Pod::default()
    };
    let seen = || vec![foreign(), pod("same"), pod("stops"), pod("gone")];
    let listed = shown(vec![
        pod("same"),
        stopping("stops"),
        pod("new"),
        stopping("short"),
    ]);
    assumed.compare(&listed, &shown(seen()), NOW);
    assert_eq!(
        uids(&mut assumed, seen()),
        ["-short", "-stops", "foreign", "new", "same"]
    );
}

#[test]
fn what_the_watch_does_not_show_is_waited_for_so_long() {
    let mut assumed = Assumed::default();
    assert_eq!(assumed.due(NOW), None);
    assumed.note_made(pod("a"), NOW);
    let after = |seconds| NOW + Duration::from_secs(seconds);
    assert_eq!(assumed.due(after(4)), Some(Duration::from_secs(6)));
    assert_eq!(assumed.due(after(11)), Some(Duration::ZERO));
}
