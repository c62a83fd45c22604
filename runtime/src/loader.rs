//! Loads variants: opens their devices, reads, checks and loads their files.

use crate::backend::batched::Batched;
use crate::backend::{BackendError, LoadOptions, Model, Settings, Signature, backend};
use crate::config::{DeviceAccess, VariantConfig};
use crate::inspect::{Code, Finding, Inspection};
use crate::variant::{LoadError, Variant};
use perwatt_model::{FileSpec, ModelFolder};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

/// Loads variants; two that run the same file in the same way share it in memory.
pub struct Loader {
    folder: ModelFolder,
    signature: Signature,
    loaded: HashMap<(String, Settings), Arc<dyn Model>>,
}

impl Loader {
    /// A loader for this folder.
    pub fn new(folder: ModelFolder) -> Self {
        let signature = Signature::of(folder.manifest());
        Self {
            folder,
            signature,
            loaded: HashMap::new(),
        }
    }

    /// Opens the variant's device, loads its file and runs it once.
    ///
    /// # Errors
    /// With what is wrong with device, file or model.
    pub fn load(&mut self, spec: &VariantConfig, access: &DeviceAccess) -> Result<Variant, LoadError> {
        let device = spec
            .profile
            .as_deref()
            .map(|profile| open_device(profile, access))
            .transpose()?;
        let (id, node) = device.unzip();
        let model = self.model(&spec.artifact, &spec.backend)?;
        let variant = Variant::new(&spec.name, model, id, node).map_err(LoadError::Thread)?;
        variant.warm(&self.signature)?;
        Ok(variant)
    }

    /// Looks into a file without loading it.
    ///
    /// # Errors
    /// When it is not as `model.yaml` says.
    pub fn inspect(&self, artifact: &str, settings: &Settings) -> Result<Inspection, LoadError> {
        let (file, content) = self.read(artifact)?;
        Ok(self.look_into(file, &content, settings))
    }

    /// Loads a file, or finds it among those that were loaded.
    ///
    /// # Errors
    /// When it is not as `model.yaml` says, or its backend refuses it.
    pub fn model(&mut self, artifact: &str, settings: &Settings) -> Result<Arc<dyn Model>, LoadError> {
        let key = (artifact.to_owned(), settings.clone());
        if let Some(model) = self.loaded.get(&key) {
            return Ok(model.clone());
        }
        let (file, content) = self.read(artifact)?;
        let options = LoadOptions {
            own_state: self.folder.manifest().has_own_state(),
            settings: settings.clone(),
        };
        let load = || {
            if let Some(refusal) = self.look_into(file, &content, settings).refusal() {
                return Err(BackendError(refusal));
            }
            let backend = backend(file.backend, settings)?;
            let model = backend.load(&content, file, &self.signature, &options)?;
            let model = check_own_state(model, options.own_state)?;
            let Some(batching) = file.batching else {
                return Ok(model);
            };
            let batched = Batched::new(model, batching, |size| {
                backend.load(&content, file, &self.signature.of_batch(size), &options)
            })?;
            Ok(Arc::new(batched) as Arc<dyn Model>)
        };
        // A hostile file may make a backend panic; that is a refusal like any other.
        let model = catch_unwind(AssertUnwindSafe(load));
        let model = model.unwrap_or_else(|_| Err(BackendError("the backend panicked".into())));
        let path = file.path.below(self.folder.path());
        let model = model.map_err(|source| LoadError::Backend { path, source })?;
        self.loaded.insert(key, model.clone());
        Ok(model)
    }

    fn read(&self, artifact: &str) -> Result<(&FileSpec, Vec<u8>), LoadError> {
        let file = self.folder.manifest().file(artifact);
        let file = file.ok_or_else(|| LoadError::NoFile(artifact.into()))?;
        Ok((file, self.folder.read_file(file)?))
    }

    fn look_into(&self, file: &FileSpec, content: &[u8], settings: &Settings) -> Inspection {
        // What the settings name and is not there is said when the file is loaded.
        let look = || match backend(file.backend, settings) {
            Ok(backend) => backend.inspect(content, file, &self.signature),
            Err(_) => Inspection::default(),
        };
        let look = AssertUnwindSafe(look);
        catch_unwind(look).unwrap_or_else(|_| {
            let mut inspection = Inspection::default();
            inspection.add(Finding::error(
                Code::Format,
                "",
                "the backend panicked while it looked into the file",
            ));
            inspection
        })
    }
}

/// A model whose state should lie inside it must have one: else every request of a sequence would be the first.
fn check_own_state(model: Arc<dyn Model>, own_state: bool) -> Result<Arc<dyn Model>, BackendError> {
    if own_state && model.begin()?.is_none() {
        return Err(BackendError(
            "model.yaml says sequence.ownState, but this file keeps no state: declare sequence.state".into(),
        ));
    }
    Ok(model)
}

/// The device's id and its node, opened as the variant will use it.
fn open_device(profile: &str, access: &DeviceAccess) -> Result<(String, File), LoadError> {
    let missing = |variable| LoadError::NoDevice {
        profile: profile.to_owned(),
        variable,
    };
    let id = access
        .id
        .clone()
        .ok_or_else(|| missing(perwatt_device_socket::DEVICE_ID_ENV))?;
    let node = access
        .node
        .as_deref()
        .ok_or_else(|| missing(perwatt_device_socket::DEVICE_NODE_ENV))?;
    let file = open_node(node).map_err(|source| LoadError::DeviceNode {
        node: node.to_path_buf(),
        hint: match source.kind() {
            io::ErrorKind::PermissionDenied => {
                "; the container's user must be in the group that owns the node \
                 (HardwareProfile, deviceNodes[].group)"
            }
            io::ErrorKind::NotFound => "; the device is gone, or the agent did not pass its node on",
            _ => "",
        },
        id: id.clone(),
        source,
    })?;
    Ok((id, file))
}

fn open_node(node: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(node)
}
