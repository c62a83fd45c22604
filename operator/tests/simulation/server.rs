//! An API server in memory: objects, resource versions, preconditions, apply, and faults on request.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::client::Body;
use perwatt_operator::observe::pod::is_ready;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Plural, namespace (empty where there is none), name.
pub type Key = (String, String, String);

/// What happens to one write.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The server answers with this code, and writes nothing.
    Refuse(u16),
    /// The operator dies before the write reaches the server.
    CrashBefore,
    /// The operator dies after the write, before it sees the answer.
    CrashAfter,
}

/// A bug between the operator and the server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bug {
    /// A create is answered, and not carried out.
    DropCreate,
    /// A delete is answered, and not carried out.
    DropDelete,
    /// A status is answered, and not written.
    DropStatus,
    /// A service is answered, and not written.
    DropService,
    /// A disruption budget is answered, and not written.
    DropBudget,
    /// A revision is answered, and not written.
    DropRevision,
    /// Pods are made without their owner.
    ForgetOwner,
    /// Pods are made without the device they were planned on.
    ForgetDevice,
    /// Every pod is made twice.
    CreateTwice,
    /// A slot's old pod goes when its new one is made, not when it serves.
    DeleteFirst,
    /// Pods are made out of reach of their Service.
    ForgetTraffic,
    /// Pods are made for any node.
    ForgetNode,
    /// Pods are made without their slot.
    ForgetSlot,
    /// Every status is written with a change of its own.
    HotLoop,
    /// The status tells of no generation.
    ForgetGeneration,
    /// What was seen of devices is never seen again.
    MissDevices,
    /// What was seen of workloads is never seen again.
    MissWorkloads,
    /// What was seen of services is never seen again.
    MissServices,
    /// A list of pods is answered as if there were none.
    EmptyLists,
    /// A pod is deleted though it changed since it was seen.
    DeleteChanged,
}

/// The server's state.
#[derive(Default)]
pub struct Server {
    pub objects: BTreeMap<Key, Value>,
    pub now: Timestamp,
    pub bug: Option<Bug>,
    /// The write of this pass that the fault meets.
    pub fault: Option<(u32, Fault)>,
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
        let fault = self
            .fault
            .filter(|(at, _)| *at == self.writes)
            .map(|(_, fault)| fault);
        match fault {
            Some(Fault::Refuse(code)) => return Some(refusal(code, "InternalError")),
            Some(Fault::CrashBefore) => {
                self.crashed = true;
                return None;
            }
            _ => {}
        }
        let answer = self.write(method, key, status, body);
        self.crashed = fault == Some(Fault::CrashAfter);
        (!self.crashed).then_some(answer)
    }

    fn read(&self, key: &Key, query: &str) -> (u16, Value) {
        if key.0 == "endpointslices" {
            return (200, self.endpoints(query));
        }
        if key.0 == "pods" && key.2.is_empty() {
            let of_kind = self.objects.iter().filter(|(key, _)| key.0 == "pods");
            let items: Vec<_> = of_kind
                .map(|(_, pod)| pod)
                .filter(|_| self.bug != Some(Bug::EmptyLists))
                .collect();
            return (
                200,
                json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}),
            );
        }
        match self.objects.get(key) {
            None => refusal(404, "NotFound"),
            Some(object) => (200, object.clone()),
        }
    }

    fn endpoints(&self, query: &str) -> Value {
        let of = |pod: &Pod| {
            let labels = pod.metadata.labels.clone().unwrap_or_default();
            let workload = labels.get("perwatt.dev/workload").cloned().unwrap_or_default();
            query.ends_with(&workload)
                && labels
                    .get("perwatt.dev/traffic")
                    .is_some_and(|traffic| traffic == "true")
        };
        let endpoints: Vec<_> = self
            .pods()
            .into_iter()
            .filter(|pod| of(pod) && is_ready(pod))
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
        if key.0 == "controllerrevisions" && self.bug == Some(Bug::DropRevision) {
            return (201, body);
        }
        if key.0 == "pods" {
            match self.bug {
                Some(Bug::ForgetTraffic) => {
                    body["metadata"]["labels"]["perwatt.dev/traffic"] = json!("false")
                }
                Some(Bug::ForgetNode) => body["spec"]["affinity"] = json!({}),
                Some(Bug::ForgetSlot) => body["metadata"]["annotations"]["perwatt.dev/slot"] = json!(""),
                Some(Bug::DeleteFirst) => {
                    let slot = &body["metadata"]["annotations"]["perwatt.dev/slot"];
                    self.objects.retain(|key, object| {
                        key.0 != "pods" || &object["metadata"]["annotations"]["perwatt.dev/slot"] != slot
                    });
                }
                Some(Bug::DropCreate) => return (201, body),
                Some(Bug::ForgetOwner) => body["metadata"]["ownerReferences"] = json!([]),
                Some(Bug::ForgetDevice) => body["spec"]["containers"][0]["resources"] = json!({}),
                Some(Bug::CreateTwice) => {
                    let mut twin = (key.clone(), body.clone());
                    twin.0.2.push_str("-twin");
                    twin.1["metadata"]["name"] = json!(twin.0.2);
                    self.put(twin.0, twin.1);
                }
                _ => {}
            }
        }
        (201, self.put(key, body))
    }

    fn delete(&mut self, key: &Key, options: &Value) -> (u16, Value) {
        let Some(object) = self.objects.get(key) else {
            return refusal(404, "NotFound");
        };
        let wanted = &options["preconditions"];
        let differs = |field: &str| !wanted[field].is_null() && wanted[field] != object["metadata"][field];
        if self.bug != Some(Bug::DeleteChanged) && (differs("uid") || differs("resourceVersion")) {
            return refusal(409, "Conflict");
        }
        let object = object.clone();
        if self.bug != Some(Bug::DropDelete) {
            self.objects.remove(key);
        }
        (200, object)
    }

    fn patch_status(&mut self, key: &Key, body: &Value) -> (u16, Value) {
        let Some(mut object) = self.objects.get(key).cloned() else {
            return refusal(404, "NotFound");
        };
        if self.bug == Some(Bug::DropStatus) {
            return (200, object);
        }
        object["status"] = body["status"].clone();
        if self.bug == Some(Bug::ForgetGeneration) && key.0 == "inferenceworkloads" {
            object["status"]["observedGeneration"] = json!(0);
        }
        if self.bug == Some(Bug::HotLoop) {
            object["status"]["revision"] = json!(self.versions.to_string());
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
        let mut object = self.objects.get(&key).cloned().unwrap_or_else(|| json!({}));
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
        self.objects.insert(key, object.clone());
        object
    }

    /// Every pod.
    pub fn pods(&self) -> Vec<Pod> {
        self.list("pods")
    }

    /// Every object of a kind.
    pub fn list<K: serde::de::DeserializeOwned>(&self, plural: &str) -> Vec<K> {
        let of_kind = self.objects.iter().filter(|(key, _)| key.0 == plural);
        of_kind
            .map(|(_, object)| serde_json::from_value(object.clone()).unwrap())
            .collect()
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
