//! All settings of xl.cfg(5) of Xen 4.17, and the further ones that xl's parser knows; for each,
//! whether it is used, ignored or refused.
//!
//! Rule: a setting that does not exist here is refused if it would change what the guest sees or
//! gets. A setting is ignored, and the message gives the reason, if xl ignores it for a PV guest,
//! or if it only tunes something that does not exist here.

/// Whether a setting is used, ignored or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The value is taken.
    Taken,
    /// Refused unless it is an empty list.
    Device,
    /// Refused unless the value says what is true of every partition here: 0, an empty list, or
    /// this word.
    Only(&'static str),
    /// Ignored, with a warning.
    PassedOver,
}

use crate::rows::ROWS;

use Fate::{Device, Only, PassedOver, Taken};

/// Settings that have the same fate for the same reason.
pub(crate) struct Settings {
    names: &'static [&'static str],
    fate: Fate,
    /// The reason, and the replacement for the settings, if there is one.
    pub(crate) reason: &'static str,
}

const fn settings(names: &'static [&'static str], fate: Fate, reason: &'static str) -> Settings {
    Settings { names, fate, reason }
}

/// Settings that are used without being a field of their own.
pub(crate) const TAKEN_OTHERWISE: [&str; 7] =
    ["cmdline", "root", "extra", "cpus", "type", "builder", "disk"];

const HVM: &str = "only an HVM guest has it";
const SCREEN: &str = "a PV guest has no screen; `uvtool console` shows its console";
const STUBDOMAIN: &str = "no device model runs here";
const NO_DEVICE: &str = "partitions have no devices but disks yet";
const NO_HARDWARE: &str = "no host hardware is passed through to partitions";
const XM: &str = "xl does not know this setting of the older xm; if it is an option of the \
    kernel, put it into extra";

/// All known settings that are not taken.
pub(crate) const ALL: [Settings; 33] = [
    settings(
        &[
            "vif", "vif2", "vfb", "vtpm", "p9", "pvcalls", "usbctrl", "usbdev", "vkb", "vsnd",
            "vdispl", "channel",
        ],
        Device,
        NO_DEVICE,
    ),
    settings(&["pci", "dtdev", "ioports", "irqs", "iomem"], Device, NO_HARDWARE),
    settings(&["vnuma"], Device, "a partition has no NUMA nodes; cpus names the CPUs it may use"),
    settings(
        &["cpuid"],
        Device,
        "a partition sees the CPU features that the monitor shows, and none of them can be masked",
    ),
    settings(
        &["e820_host"],
        Only("0"),
        "the memory of a partition has no holes, unlike the host's",
    ),
    settings(
        &["tsc_mode"],
        Only("native"),
        "a partition reads the time stamp counter of the CPU itself, which is \"native\"",
    ),
    settings(&["nestedhvm"], Only("0"), "a PV guest cannot run virtual machines of its own"),
    settings(&["driver_domain"], Only("0"), NO_HARDWARE),
    settings(&["pvshim"], Only("0"), "a PV kernel needs no shim here"),
    settings(
        &["max_event_channels"],
        PassedOver,
        "each partition has 4095 event channels, which cost nothing until they are used",
    ),
    settings(&["max_grant_version"], PassedOver, "each partition has grants of version 1"),
    settings(
        &["bootloader"],
        PassedOver,
        "no boot loader runs on the host; the kernel is read from the file that kernel names",
    ),
    settings(&["bootloader_args"], PassedOver, "no boot loader runs on the host"),
    settings(
        &["firmware"],
        Only(""),
        "a PV guest has no firmware; PV GRUB is given as kernel, see xl.cfg in the documentation",
    ),
    settings(&["uuid"], PassedOver, "a partition has a name and a number"),
    settings(
        &["seclabel", "init_seclabel"],
        PassedOver,
        "a partition's rights are in its descriptor",
    ),
    settings(&["cpus_soft"], PassedOver, "there is no soft affinity; cpus is always enforced"),
    settings(&["on_watchdog"], PassedOver, "there is no watchdog"),
    settings(&["on_soft_reset"], PassedOver, "there is no soft reset"),
    settings(&["pool"], PassedOver, "there are no CPU pools; cpus names the CPUs it may use"),
    settings(&["localtime", "rtc_timeoffset"], PassedOver, "the clock of a partition is in UTC"),
    settings(&["claim_mode"], PassedOver, "memory is assigned before a partition is built"),
    settings(&["max_maptrack_frames"], PassedOver, "partitions do not map grants of others"),
    settings(
        &["serial", "vuart"],
        PassedOver,
        "the console is the only serial line; `uvtool console` shows it",
    ),
    settings(
        &["nomigrate", "xend_suspend_evtchn_compat", "suspend_cancel"],
        PassedOver,
        "partitions are not suspended or migrated",
    ),
    settings(
        &["period", "slice", "latency", "extratime"],
        PassedOver,
        "it belongs to a scheduler that Xen no longer has; cpu_weight and cap share CPU time",
    ),
    settings(
        &["vpmu", "vmtrace_buf_kb"],
        PassedOver,
        "the performance counters belong to the host",
    ),
    settings(
        &[
            "pci_msitranslate",
            "pci_permissive",
            "pci_power_mgmt",
            "pci_seize",
            "passthrough",
            "rdm",
            "rdm_mem_boundary",
            "gfx_passthru",
            "gfx_passthrough",
        ],
        PassedOver,
        NO_HARDWARE,
    ),
    settings(
        &[
            "vnc",
            "vnclisten",
            "vncdisplay",
            "vncpasswd",
            "vncunused",
            "vncviewer",
            "sdl",
            "opengl",
            "display",
            "xauthority",
            "nographic",
            "spice",
            "spicehost",
            "spiceport",
            "spicetls_port",
            "spicedisable_ticketing",
            "spicepasswd",
            "spiceagent_mouse",
            "spicevdagent",
            "spice_clipboard_sharing",
            "spiceusbredirection",
            "spice_image_compression",
            "spice_streaming_video",
            "vga",
            "stdvga",
            "videoram",
            "keymap",
            "vkb_device",
        ],
        PassedOver,
        SCREEN,
    ),
    settings(
        &[
            "device_model",
            "device_model_args",
            "device_model_args_hvm",
            "device_model_args_pv",
            "device_model_override",
            "device_model_version",
            "device_model_user",
            "device_model_stubdomain_override",
            "device_model_stubdomain_seclabel",
            "dm_restrict",
            "stubdomain_kernel",
            "stubdomain_ramdisk",
            "stubdomain_cmdline",
            "stubdomain_memory",
        ],
        PassedOver,
        STUBDOMAIN,
    ),
    settings(
        &[
            "boot",
            "bios",
            "bios_path_override",
            "acpi",
            "acpi_s3",
            "acpi_s4",
            "acpi_firmware",
            "acpi_laptop_slate",
            "apic",
            "pae",
            "nx",
            "hpet",
            "hap",
            "oos",
            "shadow_memory",
            "viridian",
            "timer_mode",
            "vpt_align",
            "mmio_hole",
            "altp2m",
            "altp2mhvm",
            "hdtype",
            "xen_platform_pci",
            "ms_vm_genid",
            "smbios_firmware",
            "firmware_override",
            "usb",
            "usbversion",
            "usbdevice",
            "soundhw",
            "vendor_device",
            "mca_caps",
            "msr_relaxed",
            "pvshim_path",
            "pvshim_cmdline",
            "pvshim_extra",
        ],
        PassedOver,
        HVM,
    ),
    settings(&["gic_version", "tee", "device_tree"], PassedOver, "it is only for ARM guests"),
    settings(
        &[
            "ip",
            "netmask",
            "gateway",
            "hostname",
            "dhcp",
            "nfs_server",
            "nfs_root",
            "interface",
            "vcpu_avail",
            "features",
            "image",
            "console",
        ],
        PassedOver,
        XM,
    ),
];

/// Settings that are taken.
pub(crate) fn taken() -> Vec<&'static str> {
    ROWS.iter().filter_map(|row| row.xl).chain(TAKEN_OTHERWISE).collect()
}

/// The fate of a setting and the reason; `None` if the setting is unknown.
pub(crate) fn find(name: &str) -> Option<(Fate, &'static str)> {
    let found = ALL.iter().find(|settings| settings.names.contains(&name));
    let found = found.map(|settings| (settings.fate, settings.reason));
    found.or_else(|| taken().contains(&name).then_some((Taken, "")))
}

/// The names of all settings, for suggestions.
pub(crate) fn names() -> Vec<&'static str> {
    taken().into_iter().chain(ALL.iter().flat_map(|settings| settings.names).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings that xl's parser in Xen 4.17 looks up (`tools/xl/xl_parse.c`).
    const OF_XL: &str = "acpi acpi_firmware acpi_laptop_slate acpi_s3 acpi_s4 altp2m altp2mhvm apic \
        bios bios_path_override boot bootloader bootloader_args builder cap channel cmdline \
        cpu_weight cpuid cpus cpus_soft device_model device_model_args device_model_override \
        device_model_stubdomain_override device_model_stubdomain_seclabel device_model_user \
        device_model_version device_tree disk display dm_restrict driver_domain dtdev e820_host \
        extra extratime firmware firmware_override gfx_passthru gic_version hap hdtype hpet \
        init_seclabel iomem ioports irqs kernel keymap latency localtime max_event_channels \
        max_grant_frames max_grant_version max_maptrack_frames maxmem maxvcpus mca_caps memory \
        mmio_hole ms_vm_genid msr_relaxed name nestedhvm nographic nomigrate nx on_crash \
        on_poweroff on_reboot on_soft_reset on_watchdog oos opengl p9 pae passthrough pci \
        pci_msitranslate pci_permissive pci_power_mgmt pci_seize period pool pvcalls pvshim \
        pvshim_cmdline pvshim_extra pvshim_path ramdisk rdm rdm_mem_boundary root rtc_timeoffset \
        sdl seclabel serial shadow_memory slice smbios_firmware soundhw spice \
        spice_clipboard_sharing spice_image_compression spice_streaming_video spiceagent_mouse \
        spicedisable_ticketing spicehost spicepasswd spiceport spicetls_port spiceusbredirection \
        spicevdagent stdvga stubdomain_cmdline stubdomain_kernel stubdomain_memory \
        stubdomain_ramdisk tee timer_mode tsc_mode type usb usbctrl usbdev usbdevice usbversion \
        uuid vcpus vdispl vendor_device vfb vga videoram vif vif2 viridian vkb vkb_device \
        vmtrace_buf_kb vnc vncdisplay vnclisten vncpasswd vncunused vncviewer vnuma vpmu vpt_align \
        vsnd vtpm vuart xauthority xen_platform_pci xend_suspend_evtchn_compat";

    #[test]
    fn every_setting_of_xl_is_known_once_with_a_reason() {
        for name in OF_XL.split_whitespace() {
            assert!(find(name).is_some(), "{name}");
        }
        let mut names = names();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "a setting stands in two rows");
        assert!(ALL.iter().all(|row| row.fate != Taken && !row.reason.is_empty()));
    }
}
