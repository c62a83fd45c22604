//! Leader election by a Lease: one replica writes.
//!
//! Ours because the crate for it does not know this version of `kube` (docs/adr/0003). As in
//! client-go, the age of a lease is measured from when its change was seen here, never by the
//! clock of another machine.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use std::time::{Duration, Instant};

/// How long a holder may be silent before another takes over.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long the holder itself goes on without a renewal: shorter, so that two never write.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often the lease is looked at.
pub const PERIOD: Duration = Duration::from_secs(2);

const NAME: &str = "perwatt-operator";

/// The Lease, as one replica sees it.
pub struct Election {
    leases: Api<Lease>,
    identity: String,
    seen: Option<(String, Instant)>,
    renewed: Option<Instant>,
}

impl Election {
    /// An election among the replicas in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, identity: &str) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            identity: identity.to_owned(),
            seen: None,
            renewed: None,
        }
    }

    /// Whether this replica may write now.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.renewed.is_some_and(|at| at.elapsed() < RENEW_DEADLINE)
    }

    /// Tries once to take or renew the lease.
    ///
    /// # Errors
    /// When the API server does not answer; a lost race is no error.
    pub async fn tick(&mut self) -> Result<(), kube::Error> {
        let began = Instant::now();
        let held = match self.leases.get_opt(NAME).await? {
            None => self.write(None).await?,
            Some(lease) if self.may_take(&lease) => self.write(Some(lease)).await?,
            Some(_) => false,
        };
        if held {
            self.renewed = Some(began);
        } else {
            self.renewed = None;
        }
        Ok(())
    }

    /// Waits until this replica leads.
    pub async fn acquire(&mut self) {
        let mut told = false;
        while !self.is_leader() {
            match self.tick().await {
                Ok(()) if !self.is_leader() && !told => {
                    tracing::info!(lease = NAME, "another replica leads, standing by");
                    told = true;
                }
                Ok(()) => {}
                Err(error) => tracing::warn!(lease = NAME, %error, "cannot reach the lease, trying again"),
            }
            if !self.is_leader() {
                tokio::time::sleep(PERIOD).await;
            }
        }
        tracing::info!(lease = NAME, identity = %self.identity, "leading");
    }

    /// Gives the lease up, so that the next replica need not wait for it to run out.
    pub async fn release(&mut self) {
        if !self.is_leader() {
            return;
        }
        self.renewed = None;
        if let Ok(Some(mut lease)) = self.leases.get_opt(NAME).await
            && let Some(spec) = &mut lease.spec
            && spec.holder_identity.as_ref() == Some(&self.identity)
        {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            if let Err(error) = self.leases.replace(NAME, &PostParams::default(), &lease).await {
                tracing::warn!(lease = NAME, %error, "cannot give the lease up, it runs out by itself");
            }
        }
    }

    /// Ours, free, or silent for its whole duration as seen from here.
    fn may_take(&mut self, lease: &Lease) -> bool {
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return true;
        }
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        match &self.seen {
            Some((known, since)) if *known == version => {
                let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
                since.elapsed() >= Duration::from_secs(seconds)
            }
            _ => {
                self.seen = Some((version, Instant::now()));
                false
            }
        }
    }

    /// Writes the lease as ours; false where another was faster.
    async fn write(&self, current: Option<Lease>) -> Result<bool, kube::Error> {
        let now = MicroTime(Timestamp::now());
        let old = current
            .as_ref()
            .and_then(|lease| lease.spec.clone())
            .unwrap_or_default();
        let ours = old.holder_identity.as_ref() == Some(&self.identity);
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            acquire_time: if ours { old.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(old.lease_transitions.unwrap_or(0) + i32::from(!ours)),
            ..LeaseSpec::default()
        };
        let written = match current {
            Some(mut lease) => {
                lease.spec = Some(spec);
                self.leases.replace(NAME, &PostParams::default(), &lease).await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(NAME.into()),
                    ..ObjectMeta::default()
                };
                self.leases
                    .create(
                        &PostParams::default(),
                        &Lease {
                            metadata,
                            spec: Some(spec),
                        },
                    )
                    .await
            }
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }
}
