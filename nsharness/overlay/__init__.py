"""What a workload changed in its copy-on-write layer, and what becomes of it.

``changes`` the comparison, pure · ``risk`` what the host may run, pure · ``tree`` reads layers ·
``apply`` writes to the workspace · ``remove`` deletes layers · ``patch`` shows them as text.
"""
