from .findings import Finding as Finding
from .machine import machine_findings as machine_findings
from .self_check import check_kernels as check_kernels
