//! An API server in memory: objects, resource versions, preconditions, apply, and faults on request.

use crate::WORKLOADS;
use crate::bug::Bug;
use crate::disturb::{Disturbance, image, workload_key};
use crate::kubelet::Served;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// Plural, namespace (empty where there is none), name.
pub type Key = (String, String, String);

/// What happens to one write.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The server answers with this code and reason, and writes nothing.
    Refuse(u16, &'static str),
    /// The write is carried out, and its answer lost.
    LoseAnswer,
    /// The operator dies before the write reaches the server.
    CrashBefore,
    /// The operator dies after the write, before it sees the answer.
    CrashAfter,
}

/// The server's state.
#[derive(Default)]
pub struct Server {
    pub objects: BTreeMap<Key, Value>,
    /// The pods among them, decoded.
    pods: BTreeMap<Key, Pod>,
    /// Specs of workloads as their users wrote them.
    pub wanted: BTreeMap<String, Value>,
    /// Slots that had a pod that served, which no fault and no user has taken since.
    pub served: BTreeSet<Served>,
    /// Names of the pods that Services list.
    pub listed: BTreeSet<String>,
    pub now: Timestamp,
    pub bug: Option<Bug>,
    /// The write of this pass that the fault meets.
    pub fault: Option<(u32, Fault)>,
    /// What happens before a write of this pass.
    pub meanwhile: Option<(u32, Disturbance)>,
    pub crashed: bool,
    /// Writes that changed something or were to, but for events.
    pub writes: u32,
    /// The last resource version.
    pub versions: u64,
}

pub type Shared = Arc<Mutex<Server>>;

/// A client of `server`.
pub fn connect(server: &Shared) -> Client {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect_bytes().await?;
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            let query = parts.uri.query().unwrap_or_default();
            let answer = server
                .lock()
                .unwrap()
                .answer(parts.method.as_str(), parts.uri.path(), query, body);
            let Some((code, value)) = answer else {
                return Err(tower::BoxError::from("the operator is dead"));
            };
            let bytes = serde_json::to_vec(&value)?;
            Ok(http::Response::builder().status(code).body(Body::from(bytes))?)
        }
    });
    Client::new(service, "default")
}

fn refusal(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code});
    (code, status)
}

/// Key and subresource of a path such as `/api/v1/namespaces/NS/pods/NAME/status`.
fn parse(path: &str) -> (Key, bool) {
    let mut parts: Vec<_> = path.trim_matches('/').split('/').collect();
    parts.drain(..if parts[0] == "api" { 2 } else { 3 });
    let mut namespace = String::new();
    if parts[0] == "namespaces" && parts.len() > 2 {
        namespace = parts[1].to_owned();
        parts.drain(..2);
    }
    let name = parts.get(1).copied().unwrap_or_default();
    ((parts[0].to_owned(), namespace, name.to_owned()), parts.len() > 2)
}

impl Server {
    /// Code and body of the answer; nothing where the operator is dead.
    fn answer(&mut self, method: &str, path: &str, query: &str, body: Value) -> Option<(u16, Value)> {
        if self.crashed {
            return None;
        }
        let (key, status) = parse(path);
        if method == "GET" {
            return Some(self.read(&key, query));
        }
        if key.0 == "events" {
            return Some((201, body));
        }
        self.writes += 1;
        if let Some((_, disturbance)) = self.meanwhile.take_if(|(at, _)| *at == self.writes) {
            disturbance.strike(self);
        }
        let fault = self.fault.filter(|(at, _)| *at == self.writes);
        match fault.map(|(_, fault)| fault) {
            Some(Fault::Refuse(code, reason)) => return Some(refusal(code, reason)),
            Some(Fault::CrashBefore) => {
                self.crashed = true;
                return None;
            }
            Some(Fault::CrashAfter) => {
                self.write(method, key, status, body);
                self.crashed = true;
                return None;
            }
            Some(Fault::LoseAnswer) => {
                self.write(method, key, status, body);
                return Some(refusal(504, "Timeout"));
            }
            None => {}
        }
        Some(self.write(method, key, status, body))
    }

    fn read(&self, key: &Key, query: &str) -> (u16, Value) {
        if key.0 == "endpointslices" {
            return (200, self.endpoints(query));
        }
        if key.0 == "pods" && key.2.is_empty() {
            return (200, self.list_pods());
        }
        let Some(mut object) = self.objects.get(key).cloned() else {
            return refusal(404, "NotFound");
        };
        if key.0 == "pods" && self.bug == Some(Bug::TrustSurvivor) {
            object["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
            object["metadata"]["deletionTimestamp"] = Value::Null;
        }
        (200, object)
    }

    fn list_pods(&self) -> Value {
        let pods = self.objects.iter().filter(|(key, _)| key.0 == "pods");
        let items: Vec<_> = pods
            .map(|(_, pod)| pod)
            .filter(|_| self.bug != Some(Bug::EmptyLists))
            .collect();
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
    }

    fn endpoints(&self, query: &str) -> Value {
        let is_listed = |pod: &Pod| {
            let labels = pod.metadata.labels.as_ref();
            let label = |name: &str| labels.and_then(|labels| labels.get(name)).map(String::as_str);
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            query.ends_with(label("perwatt.dev/workload").unwrap_or_default())
                && label("perwatt.dev/traffic") == Some("true")
                && (self.listed.contains(name) || self.bug == Some(Bug::TrustSurvivor))
        };
        let listed = self.pods.values().filter(|pod| is_listed(pod));
        let endpoints: Vec<_> = listed
            .map(|pod| {
                json!({"addresses": ["10.0.0.1"], "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "name": pod.metadata.name}})
            })
            .collect();
        json!({"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": {}, "items": [
            {"metadata": {"name": "all"}, "addressType": "IPv4", "endpoints": endpoints}]})
    }

    fn write(&mut self, method: &str, key: Key, status: bool, body: Value) -> (u16, Value) {
        match method {
            "POST" => self.create(key, body),
            "DELETE" => self.delete(&key, &body),
            _ if status => self.patch_status(&key, &body),
            _ => self.patch(key, body),
        }
    }

    fn create(&mut self, mut key: Key, mut body: Value) -> (u16, Value) {
        key.2 = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if self.objects.contains_key(&key) {
            return refusal(409, "AlreadyExists");
        }
        match (key.0.as_str(), self.bug) {
            ("controllerrevisions", Some(Bug::DropRevision)) | ("pods", Some(Bug::DropCreate)) => {
                return (201, body);
            }
            ("pods", Some(bug)) => self.create_spoiled(bug, &key, &mut body),
            _ => {}
        }
        (201, self.put(key, body))
    }

    fn create_spoiled(&mut self, bug: Bug, key: &Key, pod: &mut Value) {
        let owner = &pod["metadata"]["ownerReferences"][0]["name"];
        let other = WORKLOADS.iter().find(|name| *owner != **name);
        let other = other.and_then(|name| self.objects.get(&workload_key(name)));
        bug.spoil(pod, &image(0), other.unwrap_or(&Value::Null));
        match bug {
            Bug::DeleteFirst => {
                let identity = |pod: &Value| {
                    let metadata = &pod["metadata"];
                    let slot = metadata["annotations"]["perwatt.dev/slot"].clone();
                    (metadata["ownerReferences"][0]["uid"].clone(), slot)
                };
                let old =
                    |(key, object): &(&Key, &Value)| key.0 == "pods" && identity(object) == identity(pod);
                let old = self.objects.iter().filter(old);
                for key in old.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
                    self.remove(&key);
                }
            }
            Bug::CreateTwice => {
                let mut twin = pod.clone();
                twin["metadata"]["name"] = json!(format!("{}-twin", key.2));
                self.put(crate::key("pods", &key.1, &format!("{}-twin", key.2)), twin);
            }
            _ => {}
        }
    }

    /// A pod that is bound stops first; everything else is gone at once.
    pub fn delete(&mut self, key: &Key, options: &Value) -> (u16, Value) {
        let Some(object) = self.objects.get(key) else {
            return refusal(404, "NotFound");
        };
        let wanted = &options["preconditions"];
        let differs = |field: &str| !wanted[field].is_null() && wanted[field] != object["metadata"][field];
        if self.bug != Some(Bug::DeleteChanged) && (differs("uid") || differs("resourceVersion")) {
            return refusal(409, "Conflict");
        }
        let mut object = object.clone();
        if self.bug == Some(Bug::DropDelete) || !object["metadata"]["deletionTimestamp"].is_null() {
            return (200, object);
        }
        let runs = key.0 == "pods"
            && object["spec"]["nodeName"].is_string()
            && object["status"]["phase"] != "Failed";
        if !runs {
            self.remove(key);
            return (200, object);
        }
        object["metadata"]["deletionTimestamp"] = json!(self.now.to_string());
        (200, self.put(key.clone(), object))
    }

    fn patch_status(&mut self, key: &Key, body: &Value) -> (u16, Value) {
        let Some(mut object) = self.objects.get(key).cloned() else {
            return refusal(404, "NotFound");
        };
        if self.bug == Some(Bug::DropStatus) {
            return (200, object);
        }
        object["status"] = body["status"].clone();
        if let Some(bug) = self.bug.filter(|_| key.0 == "inferenceworkloads") {
            bug.spoil_status(&mut object, self.versions);
        }
        (200, self.put(key.clone(), object))
    }

    fn patch(&mut self, key: Key, body: Value) -> (u16, Value) {
        let dropped = match self.bug {
            Some(Bug::DropService) => "services",
            Some(Bug::DropBudget) => "poddisruptionbudgets",
            _ => "",
        };
        if key.0 == dropped {
            return (200, body);
        }
        // Apply makes what is not there; a merge does not.
        let Some(mut object) = self
            .objects
            .get(&key)
            .cloned()
            .or(body.get("kind").map(|_| json!({})))
        else {
            return refusal(404, "NotFound");
        };
        merge(&mut object, body);
        (200, self.put(key, object))
    }

    /// Writes an object as it is, with a new resource version.
    pub fn put(&mut self, key: Key, mut object: Value) -> Value {
        self.versions += 1;
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = json!(self.versions.to_string());
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("uid-{}", self.versions));
            metadata["creationTimestamp"] = json!(self.now.to_string());
        }
        if key.0 == "pods" {
            self.pods.insert(key.clone(), Pod::deserialize(&object).unwrap());
        }
        self.objects.insert(key, object.clone());
        object
    }

    /// Changes an object; one that stays as it was keeps its resource version.
    pub fn change(&mut self, key: &Key, change: impl FnOnce(&mut Value)) {
        let Some(before) = self.objects.get(key) else {
            return;
        };
        let mut object = before.clone();
        change(&mut object);
        if object != *before {
            self.put(key.clone(), object);
        }
    }

    pub fn remove(&mut self, key: &Key) -> Option<Value> {
        self.pods.remove(key);
        self.objects.remove(key)
    }

    /// Every pod.
    pub fn pods(&self) -> impl Iterator<Item = (&Key, &Pod)> {
        self.pods.iter()
    }

    pub fn pod(&self, key: &Key) -> Option<&Pod> {
        self.pods.get(key)
    }

    /// Keys and resource versions of a kind.
    pub fn versions_of(&self, plural: &str) -> impl Iterator<Item = (&Key, &str)> {
        let of_kind = self.objects.iter().filter(move |(key, _)| key.0 == plural);
        of_kind.map(|(key, object)| {
            let version = object["metadata"]["resourceVersion"].as_str();
            (key, version.unwrap_or_default())
        })
    }
}

fn merge(object: &mut Value, patch: Value) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(object.entry(key).or_insert(Value::Null), value);
            }
        }
        (object, patch) => *object = patch,
    }
}
